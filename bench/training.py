"""Training of K adapters: the bank against PEFT, one adapter after the other.

Both sides train the same adapters on the same batches from the same initial weights. PEFT's side is
the usual training loop: ``model(input_ids, attention_mask, labels=...)``, padding to the batch's
longest row, AdamW, gradient clipping, LoRA's dropout. The floor is the time of a forward and a
backward pass of the frozen base model on the same rows, without adapters and logits.

``python -m bench.training [--full] [--dtype bfloat16] [--shape llama-1b --device cuda]``
``python -m bench.training --model FOLDER`` takes a model of real size, and measures on a CPU the
peak memory of both sides, each in a process of its own that does nothing else.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bench.output import publish
from bench.pairs import Clock, Pairs, timed
from bench.plain import peft_model, put
from fedrouter.adapters.lora import LoraSpec, initial_weights
from fedrouter.config import ModelConfig
from fedrouter.model.base_model import BaseModel
from fedrouter.model.batching import length_batches, pad
from fedrouter.model.memory import training_tokens
from fedrouter.model.prompt_format import Example
from fedrouter.training.trainer import TrainJob, batches, train

LLAMA_1B = LlamaConfig(  # the shape of Llama-3.2-1B
    vocab_size=128256,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=64,
    tie_word_embeddings=True,
    max_position_embeddings=8192,
)
STEPS = 2
SIDES = ("ours", "theirs")


@dataclass(frozen=True)
class Cell:
    """One size: adapters, rows per batch and adapter, tokens per row (the maximum if mixed)."""

    adapters: int
    batch: int
    length: int
    mixed: bool = False


SMALL = [Cell(1, 4, 64), Cell(8, 1, 64), Cell(8, 4, 64), Cell(8, 4, 256), Cell(8, 4, 256, True)]
MODEL = [Cell(k, b, 64) for b in (1, 4) for k in (1, 4, 8)]
FULL = [
    *(Cell(k, b, n) for n in (64, 256) for b in (1, 4, 16) for k in (1, 2, 4, 8, 16)),
    *(Cell(8, b, 256, True) for b in (1, 4, 16)),
]


class Sides:
    """Both sides of a comparison, on two copies of one base model."""

    def __init__(self, load: Callable[[], BaseModel], dropout: float = 0.05) -> None:
        self._load = load
        self.base = load()
        self.spec = LoraSpec(dropout=dropout).resolved(self.base.model)
        self.start = initial_weights(self.base.model, self.spec, torch.Generator().manual_seed(0))

    @cached_property
    def peft(self) -> PeftModel:
        """The other side's model."""
        return peft_model(self._load().model, self.spec, {"default": self.start})

    def jobs(self, cell: Cell, steps: int = STEPS) -> list[TrainJob]:
        """Train jobs on random tokens; a quarter of each row is the response."""
        draws = np.random.default_rng(0)
        vocabulary = self.base.model.config.vocab_size

        def example() -> Example:
            length = int(draws.integers(8, cell.length + 1)) if cell.mixed else cell.length
            ids = draws.integers(3, vocabulary, length)
            return Example(tuple(ids.tolist()), length - max(1, length // 4))

        job = TrainJob(self.start, (), steps, cell.batch, lr=5e-4, max_grad_norm=1.0, seed=0)
        return [
            replace(job, examples=[example() for _ in range(steps * cell.batch)], seed=k)
            for k in range(cell.adapters)
        ]

    def ours(self, jobs: Sequence[TrainJob]) -> list[float]:
        """The bank; returns each adapter's mean loss."""
        return [result.loss for result in train(self.base, self.spec, jobs, fuse=len(jobs))]

    def theirs(self, jobs: Sequence[TrainJob]) -> list[float]:
        """PEFT, one adapter after the other."""
        return [self._peft_job(job) for job in jobs]

    def _peft_job(self, job: TrainJob) -> float:
        put(self.peft, "default", job.weights)
        self.peft.train()
        trained = [p for p in self.peft.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=job.lr, weight_decay=0.0)
        losses = []
        for batch in batches(job):
            tokens, mask = self._padded([example.input_ids for example in batch])
            labels = tokens.masked_fill(mask == 0, -100)
            for row, example in enumerate(batch):
                labels[row, : example.prompt_length] = -100
            loss = self.peft(input_ids=tokens, attention_mask=mask, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, job.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def floor(self, jobs: Sequence[TrainJob]) -> None:
        """The frozen base model alone on the same rows, in passes of the bank's size."""
        decoder = getattr(self.base.model, self.base.model.base_model_prefix)
        embed = self.base.model.get_input_embeddings()
        limit = training_tokens(self.base.model, checkpointing=False)
        for groups in zip(*(batches(job) for job in jobs), strict=True):
            rows = [example.input_ids for group in groups for example in group]
            for chosen in length_batches([len(row) for row in rows], limit):
                tokens, mask = self._padded([rows[i] for i in chosen])
                inputs = embed(tokens).requires_grad_()
                output = decoder(inputs_embeds=inputs, attention_mask=mask, use_cache=False)
                output.last_hidden_state.sum().backward()

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        return pad(rows, self.base.prompts.pad_id, side="right", device=self.base.device)


def compare(
    sides: Sides, cell: Cell, repeats: int, clock: Clock = time.perf_counter
) -> tuple[Pairs, Pairs]:
    """The bank against PEFT, and against the floor."""
    jobs = sides.jobs(cell)
    return (
        timed(lambda: sides.ours(jobs), lambda: sides.theirs(jobs), repeats, clock),
        timed(lambda: sides.ours(jobs), lambda: sides.floor(jobs), repeats, clock),
    )


def disagreement(load: Callable[[], BaseModel]) -> float:
    """The largest relative difference of the two sides' losses, without dropout."""
    sides = Sides(load, dropout=0.0)
    jobs = sides.jobs(Cell(4, 4, 64, mixed=True))
    pairs = zip(sides.ours(jobs), sides.theirs(jobs), strict=True)
    return max(abs(a - b) / b for a, b in pairs)


def loader(shape: str, dtype: str, device: str, name: str = "nano") -> Callable[[], BaseModel]:
    """Loads a model by its name, or a randomly initialized one of a larger shape."""
    config = ModelConfig(name=name, dtype=dtype)  # type: ignore[arg-type]  # argparse has checked it
    if shape == "nano":
        return lambda: BaseModel.load(config, device)

    def load() -> BaseModel:
        torch.manual_seed(0)
        with torch.device(device):
            model = LlamaForCausalLM(LLAMA_1B).to(getattr(torch, dtype))
        tokenizer = AutoTokenizer.from_pretrained(BaseModel.load(ModelConfig()).model.name_or_path)
        return BaseModel(model, tokenizer, config)

    return load


def peak_gib(run: Callable[[], Any]) -> float:
    """The peak GPU memory of a call."""
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 2**30


def peak_mib(asked: argparse.Namespace, side: str, cell: Cell) -> float:
    """The peak memory of a side on a CPU, in a process of its own."""
    command = [sys.executable, "-m", "bench.training", "--model", asked.model, "--dtype"]
    options = [asked.dtype, "--side", side, "--cell", f"{cell.adapters},{cell.batch},{cell.length}"]
    done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    return float(done.stdout)


def one_side(load: Callable[[], BaseModel], side: str, cell: Cell) -> float:
    """This process's peak memory in MiB while it trains with one of the SIDES; Linux only."""
    base = load()
    sides = Sides(lambda: base)  # the other side's copy is not there
    jobs = sides.jobs(cell)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak, which loading has
    getattr(sides, side)(jobs)
    [peak] = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) / 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all cells")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--shape", default="nano", choices=["nano", "llama-1b"])
    parser.add_argument("--model", help="a base model to take instead, such as a folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processor-time", action="store_true", help="not wall time; one thread")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of timings")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    load = loader(asked.shape, asked.dtype, asked.device, asked.model or "nano")
    if asked.side:
        print(one_side(load, asked.side, Cell(*map(int, asked.cell.split(",")))))
        return
    clock = time.process_time if asked.processor_time else time.perf_counter
    off = disagreement(load)
    sides = Sides(load)
    rows = []
    for cell in MODEL if asked.model else FULL if asked.full else SMALL:
        peft, floor = compare(sides, cell, asked.repeats, clock)
        row = {
            "K": cell.adapters,
            "batch": cell.batch,
            "length": f"8-{cell.length}" if cell.mixed else str(cell.length),
            **peft.row(),
            "of the floor": floor.ratio,
        }
        if asked.device != "cpu":
            jobs = sides.jobs(cell)
            row["peak GiB"] = peak_gib(lambda jobs=jobs: sides.ours(jobs))  # type: ignore[misc]
            row["baseline GiB"] = peak_gib(lambda jobs=jobs: sides.theirs(jobs))  # type: ignore[misc]
        elif asked.model:
            row["peak MiB"], row["baseline MiB"] = (peak_mib(asked, one, cell) for one in SIDES)
        rows.append(row)
    notes = [
        f"{asked.model or asked.shape}, {asked.dtype}, {STEPS} steps a job",
        "seconds: of the processor." if asked.processor_time else "seconds: of wall time.",
        "ratio: PEFT's time over the bank's.",
        "of the floor: time of the base model alone over the bank's time.",
        f"largest relative difference of the two sides' losses without dropout: {off:.1e}",
    ]
    shape = Path(asked.model).name if asked.model else asked.shape
    name = "training" if shape == "nano" else f"training_{shape}"
    publish(f"{name}_{asked.dtype}", "Training K adapters: the bank against PEFT", rows, notes)


if __name__ == "__main__":
    main()
