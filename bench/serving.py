"""How fast is `fedrouter serve`, at 1, 8 and 32 clients, beside a plain server?

Each client sends 20 requests, over 8 tasks, one after the other; the answers are streamed. The
other side is what a user would write: FastAPI and PEFT, one request at a time, `set_adapter` with
the right task given (it does not route). Both run in processes of their own.

With `--memory` it asks another question: does the memory of `fedrouter serve` grow over so many
requests, each with a prompt of its own?

``python -m bench.serving [--full] [--run DIR] [--memory 10000]``
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.output import publish
from fedrouter.config import load_config
from fedrouter.data.builtin import builtin_rows
from fedrouter.experiment import run

TOKENS = 32
REQUESTS = 20


@dataclass(frozen=True)
class Timing:
    """One answer, in seconds from its request."""

    first: float
    whole: float
    tokens: int


def make_run(folder: Path) -> Path:
    """A run with 8 tasks, hardly trained: speed does not depend on what adapters hold."""
    settings = [
        "mode=paper",
        "data.scenario=single",
        "clustering.n_global=8",
        "federation.rounds=1",
        "training.steps=1",
        "evaluation.enabled=false",
    ]
    run(load_config(None, settings), folder)
    return folder


def prompts() -> list[str]:
    """Prompts of all 8 tasks, in turn."""
    _, rows = builtin_rows(1, REQUESTS)
    by_task: dict[str | None, list[str]] = {}
    for row in rows:
        by_task.setdefault(row.task, []).append(row.instruction)
    return [text for texts in zip(*by_task.values(), strict=True) for text in texts]


@contextmanager
def serving(*command: str) -> Iterator[tuple[str, int]]:
    """A server in a process of its own; yields its address and the process's id."""
    process = subprocess.Popen(
        [sys.executable, *command], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "http://" in line:
                yield "http://" + line.split("http://")[1].strip(), process.pid
                break
        else:
            raise RuntimeError(f"{command} ended with {process.wait()}")
    finally:
        process.terminate()
        process.wait()


async def ask(client: httpx.AsyncClient, prompt: str) -> Timing:
    """One streamed answer."""
    began, first, tokens = time.perf_counter(), 0.0, 0
    body = {
        "model": "auto",
        "prompt": prompt,
        "max_tokens": TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            first = first or time.perf_counter() - began
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    return Timing(first, time.perf_counter() - began, tokens)


async def load(address: str, clients: int) -> tuple[float, list[Timing]]:
    """All clients at once; the seconds that they took, and every answer."""
    texts = prompts()

    async def client(number: int, http: httpx.AsyncClient) -> list[Timing]:
        return [
            await ask(http, texts[(number * REQUESTS + i) % len(texts)]) for i in range(REQUESTS)
        ]

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as http:
        await ask(http, texts[0])
        began = time.perf_counter()
        answers = await asyncio.gather(*(client(number, http) for number in range(clients)))
        seconds = time.perf_counter() - began
    return seconds, [one for some in answers for one in some]


async def remember(address: str, pid: int, requests: int) -> list[dict[str, object]]:
    """The memory of a server after each tenth of the requests, which 8 clients send."""
    texts, rows = prompts(), []

    async def client(http: httpx.AsyncClient, numbers: Iterator[int]) -> None:
        for number in numbers:
            await ask(http, f"{number}: {texts[number % len(texts)]}")

    async with httpx.AsyncClient(base_url=address, timeout=300) as http:
        for tenth in range(11):
            rows.append({"requests": tenth * requests // 10, "memory, MB": resident(pid)})
            if tenth < 10:
                numbers = iter(range(tenth * requests // 10, (tenth + 1) * requests // 10))
                await asyncio.gather(*(client(http, numbers) for _ in range(8)))
    return rows


def resident(pid: int) -> float:
    """The memory of a process that is in RAM, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def quantile(values: list[float], share: float) -> float:
    """The value below which this share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="three repetitions in place of one")
    parser.add_argument("--run", type=Path, help="a run folder with 8 tasks; default: a new one")
    parser.add_argument("--memory", type=int, metavar="N", help="memory over N requests instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.run or make_run(Path(temporary) / "run")
        sides = {
            "fedrouter": ("-m", "fedrouter", "serve", str(folder), "--port", "0"),
            "FastAPI and PEFT": ("-m", "bench.plain_server", str(folder)),
        }
        if arguments.memory:
            with serving(*sides["fedrouter"]) as (address, pid):
                memory = asyncio.run(remember(address, pid, arguments.memory))
            publish("serving-memory", "Memory of fedrouter serve", memory, [])
            return
        rows = []
        for _ in range(3 if arguments.full else 1):
            for name, command in sides.items():
                with serving(*command) as (address, _):
                    for clients in (1, 8, 32):
                        seconds, answers = asyncio.run(load(address, clients))
                        rows.append((name, clients, seconds, answers))
        publish(
            "serving",
            f"Serving: {TOKENS} tokens at most, {REQUESTS} requests a client, 8 tasks",
            table(rows),
            ["ratio: requests a second over those of one client of the same server"],
        )


def table(rows: list[tuple[str, int, float, list[Timing]]]) -> list[dict[str, object]]:
    """Medians over the repetitions."""
    cells: list[dict[str, object]] = []
    alone: dict[str, float] = {}
    for server, clients in dict.fromkeys((name, clients) for name, clients, _, _ in rows):
        some = [(s, a) for name, n, s, a in rows if (name, n) == (server, clients)]
        rate = statistics.median(len(a) / s for s, a in some)
        first = [one.first * 1000 for _, a in some for one in a]
        whole = [one.whole * 1000 for _, a in some for one in a]
        alone.setdefault(server, rate)
        cells.append(
            {
                "server": server,
                "clients": clients,
                "requests/s": rate,
                "tokens/s": statistics.median(sum(x.tokens for x in a) / s for s, a in some),
                "ratio": rate / alone[server],
                "first token p50, ms": quantile(first, 0.5),
                "first token p95, ms": quantile(first, 0.95),
                "answer p50, ms": quantile(whole, 0.5),
                "answer p95, ms": quantile(whole, 0.95),
            }
        )
    return cells


if __name__ == "__main__":
    main()
