"""The memory of a node: the peak of a SuperNode's ClientApp process, by base model and dtype.

Each measurement is a process of its own, which answers a server's messages as the ClientApp does:
it profiles its rows, trains two adapters for one step of 8 rows each, and answers its test rows.
Resident memory is read after each message. With `--limit-mib` the process may have no more data
than that (`ulimit -d`, which counts all private memory, whether it is used or not), as on a small
machine: the size of passes follows from it. Finished measurements are appended to a file and not
repeated.

``python -m bench.node_memory --out FILE [--limit-mib 2048] [--batch-size 24]
[--bases nano,models/smollm2-135m] [--kinds float32,bfloat16,int8,nf4]``; needs
``pip install fedrouter[flower]``, and for int8 and nf4 ``fedrouter[quantization]``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.output import measure_missing, publish, read_records
from fedrouter.config import Config, dump_config, load_config
from fedrouter.config.resolve import resolve

MIB = 2**20
KINDS: Mapping[str, tuple[str, ...]] = {
    "float32": ("model.dtype=float32",),
    "bfloat16": ("model.dtype=bfloat16",),
    "int8": ("model.quantization=int8",),
    "nf4": ("model.quantization=nf4",),
}
SETTINGS = (
    "mode=paper",
    "federation.clients=1",
    "federation.rounds=1",
    "clustering.n_local=2",
    "clustering.n_global=2",
    "privacy.min_samples=1",
    "data.test_fraction=0.15",
    "training.steps=1",
    "evaluation.max_new_tokens=8",
)
Case = tuple[str, str, int, int]  # base model, weights, limit in MiB (0: none), rows in a batch


def measured(base: str, kind: str, limit: int, batch: int) -> dict[str, Any]:
    """The memory of one node, measured in a process of its own."""
    arguments = ["--base", base, "--kind", kind]
    numbers = ["--limit-mib", str(limit), "--batch-size", str(batch)]
    command = [sys.executable, "-m", "bench.node_memory", *arguments, *numbers]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    named = {"base": Path(base).name, "weights": kind, "limit, MiB": limit or "-"}
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return {**named, "failed": reason[0]}
    return {**named, **json.loads(done.stdout.splitlines()[-1])}


def one_node(base: str, kind: str, limit: int, batch: int) -> dict[str, Any]:
    """What `measured` returns, in this process."""
    if limit:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (limit * MIB, limit * MIB))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_rows(folder / "rows.jsonl", 3 * batch + 4)
        sets = [*SETTINGS, *KINDS[kind], f"training.batch_size={batch}", f"model.name={base}"]
        return answer_all(load_config(None, [*sets, f"data.train={folder}/rows.jsonl"]), folder)


def write_rows(path: Path, number: int) -> None:
    """Rows of two built-in tasks."""
    from fedrouter.data.builtin import builtin_rows

    train, _ = builtin_rows(number, 1, 1)
    chosen = [row for row in train if row.task in sorted({row.task for row in train})[:2]][:number]
    records = [{"instruction": row.instruction, "response": row.response} for row in chosen]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def answer_all(asked: Config, folder: Path) -> dict[str, Any]:
    """Answer a server's messages one after the other; the memory after each."""
    from fedrouter.adapters.lora import LoraSpec
    from fedrouter.engines.flower.client_app import _answer, _shared_model
    from fedrouter.engines.flower.node_config import node_config
    from fedrouter.engines.flower.records import from_records, to_records
    from fedrouter.model.memory import training_tokens
    from fedrouter.protocol.codec import pack_request, unpack_reply
    from fedrouter.protocol.messages import ClientReply, ClientRequest
    from fedrouter.server.rounds import with_evaluation
    from fedrouter.strategies import make_strategy
    from fedrouter.training.checkpointing import uses_checkpointing

    config = resolve(asked, tasks=())
    node = {
        "client-id": 0,
        "data": str(folder / "rows.jsonl"),
        "state-dir": str(folder / "state"),
        "model": config.model.name,
        "min-samples": 1,
        **({"quantization": config.model.quantization} if config.model.quantization else {}),
    }
    texts = {"config": dump_config(config), "folder": ""}

    def ask(request: ClientRequest) -> ClientReply:
        header, arrays = pack_request(request, config.federation.transport)
        message: Any = SimpleNamespace(content=to_records({**texts, "task": header}, arrays))
        reply, out = from_records(_answer(message, node, simulated=False))
        return unpack_reply(reply["reply"], out)

    found: dict[str, Any] = {"imports": peak(lambda: None)[1]}
    own = node_config(config, node, simulated=False)
    model = own.model.model_dump_json()
    shared, found["load"] = peak(lambda: _shared_model(model, own.engine.device))
    strategy: Any = make_strategy(config)
    [order] = strategy.profile([0])
    reply, found["profile"] = peak(lambda: ask(order))
    spec = LoraSpec.from_config(config.adapter).resolved(shared.base.model)
    initial = shared.initial(spec, config.seed)
    state = strategy.init([reply.profile], initial, shared.base.fingerprint)
    [order] = strategy.plan(state, 1, [0])
    began = time.process_time()
    reply, found["train"] = peak(lambda: ask(order))
    took = time.process_time() - began
    last = with_evaluation(ClientRequest(0, 2), strategy, state, ("local",))
    _, found["evaluate"] = peak(lambda: ask(last))
    recompute = uses_checkpointing(shared.base, own.engine.gradient_checkpointing)
    found["peak"] = max(found.values())
    return {
        **{name: round(mib) for name, mib in found.items()},
        "tokens in a pass": training_tokens(shared.base.model, checkpointing=recompute),
        "checkpointing": "yes" if recompute else "no",
        "tokens": sum(update.tokens for update in reply.updates),
        "seconds of training": round(took, 1),
    }


def peak(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result of some work, and the peak of resident memory during it in MiB."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    result = work()
    lines = Path("/proc/self/status").read_text().splitlines()
    [kib] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return result, int(kib) / 1024


def read(path: Path) -> dict[Case, dict[str, Any]]:
    """The measurements that are in the file."""
    return {tuple(one["case"]): one["found"] for one in read_records(path)}  # type: ignore[misc]


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--limit-mib", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--bases", default="nano,models/smollm2-135m")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--base", help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.base:
        print(json.dumps(one_node(asked.base, asked.kind, asked.limit_mib, asked.batch_size)))
        return
    cells = [
        (base, kind, asked.limit_mib, asked.batch_size)
        for base in asked.bases.split(",")
        for kind in asked.kinds.split(",")
    ]
    found: dict[Any, Any] = read(asked.out)
    measure_missing(asked.out, cells, found, lambda cell: {"case": cell, "found": measured(*cell)})
    rows = [one.get("found", one) for one in found.values()]
    columns = dict.fromkeys(name for row in rows for name in row)
    table = [{name: row.get(name, "-") for name in columns} for row in rows]
    publish("node_memory", "The memory of a node, MiB", table)


if __name__ == "__main__":
    main()
