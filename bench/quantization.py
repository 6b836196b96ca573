"""A base model in float32, bfloat16, int8 and nf4: memory, speed, and federations that mix them.

- Each kind in a process of its own: megabytes of the weights, and seconds of processor time for two
  steps of training on two rows of 64 tokens.
- Mixed federations: eight clients with two built-in tasks each, their numbers given; the server and
  the clients that are not quantized hold the base in float32, and every client evaluates on its own
  base. The bases of all machines are in this process.

``python -m bench.quantization --out FILE --model FOLDER [--seeds 1] [--only kinds|federations]``
Finished cells are appended to the file and not measured again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.output import measure_missing, publish, read_records
from fedrouter.adapters.lora import LoraSpec, initial_weights
from fedrouter.client.client import Client
from fedrouter.config import ModelConfig, load_config
from fedrouter.config.resolve import resolve
from fedrouter.data.client_data import deal
from fedrouter.data.loading import load_splits
from fedrouter.engines.in_process import InProcessEngine
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.model.base_model import BaseModel
from fedrouter.model.prompt_format import Example
from fedrouter.protocol.messages import ClientReply, ClientRequest, Failure
from fedrouter.server.engine import Traffic
from fedrouter.server.resource_usage import ResourceUsage
from fedrouter.server.server import Server
from fedrouter.storage.run_folder import RunFolder
from fedrouter.training.trainer import TrainJob, train

KINDS: Mapping[str, Mapping[str, str]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
    "nf4": {"quantization": "nf4"},
}
CLIENTS = 8
MIXES: Mapping[str, Sequence[str]] = {  # the bases of the clients
    "all float32": ["float32"],
    "half int8": ["float32", "int8"],
    "half nf4": ["float32", "nf4"],
    "all nf4": ["nf4"],
}
SETTINGS = (
    "data.scenario=dual",
    "data.builtin_train=40",
    "data.builtin_test=6",
    r'model.template="{instruction}\n"',
    f"federation.clients={CLIENTS}",
    "federation.rounds=3",
    "clustering.n_local=2",
    "clustering.n_global=8",
    "aggregation.robust=none",
    "adapter.dropout=0",
    "training.steps=2",
    "training.batch_size=2",
    "training.lr=0.005",
    "training.lr_min=0.0005",
    "evaluation.samples=4",
    "evaluation.max_new_tokens=24",
)
STEPS, ROWS, TOKENS = 2, 2, 64


@dataclass(frozen=True)
class Kind:
    """Memory and speed of one kind of base model; `repeat` makes pairs of timings."""

    kind: str
    repeat: int

    def measure(self, model: str) -> dict[str, Any]:
        """What a process of its own prints."""
        command = [sys.executable, "-m", "bench.quantization", "--model", model]
        command += ["--out", "-", "--kind", self.kind]
        return dict(json.loads(subprocess.check_output(command, text=True).splitlines()[-1]))


@dataclass(frozen=True)
class Federation:
    """A run in which the clients have the bases of a mix in turn."""

    mix: str
    seed: int

    def measure(self, model: str) -> dict[str, Any]:
        """The scores of the run."""
        config = load_config(None, [*SETTINGS, f"seed={self.seed}", f"model.name={model}"])
        splits = load_splits(config.data, config.seed)
        config = resolve(config, {row.task for row in splits.train})
        kinds = MIXES[self.mix]
        models = {kind: SharedModel(load(model, kind)) for kind in {"float32", *kinds}}
        spec = LoraSpec.from_config(config.adapter).resolved(models["float32"].base.model)
        with tempfile.TemporaryDirectory() as scratch:
            parts = []
            for place, kind in enumerate(kinds):
                clients = {
                    id: Client(
                        id,
                        rows,
                        shared_model=models[kind],
                        spec=spec,
                        config=config,
                        folder=Path(scratch) / "clients",
                    )
                    for id, rows in enumerate(deal(config, splits))
                    if id % len(kinds) == place
                }
                transport, fuse = config.federation.transport, config.engine.fuse
                base = models[kind].base
                parts.append(InProcessEngine(base, spec, clients, transport=transport, fuse=fuse))
            engine = MixedEngine(parts)
            server = Server(config, models["float32"], spec, engine, costs=ResourceUsage())
            summary = server.execute(RunFolder.create(Path(scratch) / "run", ""))
        scores = summary["metrics"]
        return {
            "routing": summary["routing"]["accuracy"],
            "loss": scores["global"]["loss"],
            "rouge1": scores["global"]["rouge1"],
            "base loss": scores["base"]["loss"],
        }


Cell = Kind | Federation
CLASSES = {"kind": Kind, "federation": Federation}


class MixedEngine:
    """Clients of several engines, each with a base model of its own."""

    def __init__(self, parts: Sequence[InProcessEngine]) -> None:
        self.parts = parts
        self.traffic = Traffic()

    def online(self) -> Sequence[int]:
        """All clients."""
        return sorted(id for part in self.parts for id in part.clients)

    def rank(self, client: int) -> int | None:
        """As each part says."""
        return next(part.rank(client) for part in self.parts if client in part.clients)

    def run(self, requests: Sequence[ClientRequest]) -> Iterator[ClientReply | Failure]:
        """The replies in the order of the requests."""
        replies = {}
        for part in self.parts:
            own = [request for request in requests if request.client in part.clients]
            replies |= {reply.client: reply for reply in part.run(own)}
        yield from (replies[request.client] for request in requests)


def load(model: str, kind: str) -> BaseModel:
    """A base model of a kind, on the CPU."""
    options: Mapping[str, Any] = KINDS[kind]
    return BaseModel.load(ModelConfig(name=model, template="{instruction}\n", **options), "cpu")


def one_kind(model: str, kind: str) -> dict[str, Any]:
    """Memory and speed in this process."""
    torch.set_num_threads(1)
    base = load(model, kind)
    spec = LoraSpec(dropout=0.0).resolved(base.model)
    start = initial_weights(base.model, spec, torch.Generator().manual_seed(0))
    draws = np.random.default_rng(0)
    rows = draws.integers(3, base.model.config.vocab_size, (STEPS * ROWS, TOKENS)).tolist()
    examples = [Example(tuple(row), TOKENS - TOKENS // 4) for row in rows]
    job = TrainJob(start, examples, STEPS, ROWS, lr=5e-4, max_grad_norm=1.0, seed=0)
    list(train(base, spec, [job], 1))  # the first time allocates
    began = time.process_time()
    list(train(base, spec, [job], 1))
    return {"weights MB": base.model.get_memory_footprint() / 1e6, "s": time.process_time() - began}


def read(path: Path) -> dict[Cell, dict[str, Any]]:
    """The cells that are in the file."""
    found: dict[Cell, dict[str, Any]] = {}
    for record in read_records(path):
        found[CLASSES[record["class"]](**record["cell"])] = record
    return found


def measured(cell: Cell, model: str) -> dict[str, Any]:
    """The record of a cell."""
    name = next(name for name, cls in CLASSES.items() if isinstance(cell, cls))
    return {"class": name, "cell": asdict(cell), **cell.measure(model)}


def main() -> None:
    """Measure the cells that are missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="models/smollm2-135m", help="a folder")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--only", choices=["kinds", "federations"])
    parser.add_argument("--kind", choices=sorted(KINDS), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.kind:
        print(json.dumps(one_kind(asked.model, asked.kind)))
        return
    found = read(asked.out)
    cells: list[Cell] = []
    if asked.only != "federations":
        kinds = asked.kinds.split(",")
        cells += [Kind(kind, repeat) for repeat in range(asked.repeats) for kind in kinds]
    if asked.only != "kinds":
        seeds = map(int, asked.seeds.split(","))
        cells += [Federation(mix, seed) for seed in seeds for mix in MIXES]
    measure_missing(asked.out, cells, found, lambda cell: measured(cell, asked.model))
    for name, title, rows in (
        ("quantization", "Kinds of base models", kind_rows(found)),
        ("mixed_quantization", "Mixed federations", federation_rows(found)),
    ):
        if rows:
            publish(name, title, rows, [asked.model])


def kind_rows(found: Mapping[Cell, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each kind: medians, and the median of its seconds as a ratio to float32's."""
    seconds: dict[str, dict[int, float]] = {kind: {} for kind in KINDS}
    weights = {}
    for cell, one in found.items():
        if isinstance(cell, Kind):
            seconds[cell.kind][cell.repeat] = one["s"]
            weights[cell.kind] = one["weights MB"]
    return [
        {
            "base": kind,
            "weights MB": weights[kind],
            "s": float(np.median([*own.values()])),
            "time, of float32": float(
                np.median([s / seconds["float32"][r] for r, s in own.items()])
            ),
        }
        for kind, own in seconds.items()
        if own
    ]


def federation_rows(found: Mapping[Cell, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each run."""
    scores = ("routing", "loss", "rouge1", "base loss")
    return [
        asdict(cell) | {score: one[score] for score in scores}
        for cell, one in found.items()
        if isinstance(cell, Federation)
    ]


if __name__ == "__main__":
    main()
