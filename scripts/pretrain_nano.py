"""Pretrain the built-in base model: tokenizer, weights and model card.

    python scripts/pretrain_nano.py --corpus DIR --out DIR --checkpoints DIR --steps N

The learning rate is constant, then decreases linearly to zero over the last `FALL` of the steps. A
run that was stopped before the decrease can therefore continue with another number of steps, and
ends exactly as if it had been started with that number. The result depends only on the arguments.
"""

import argparse
import logging
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from bits_per_byte import bits_per_byte
from nano_card import card
from nano_corpus import (
    WIKIPEDIA_PASSES,
    TokenStream,
    held_out_texts,
    train_tokenizer,
    training_texts,
)
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedrouter.seeding import derive_seed

CONTEXT = 1024
TOKENS_PER_STEP = 4096
LENGTH = 256  # tokens in a sequence, but for
LONG_EVERY = 8  # every eighth step, whose sequences are CONTEXT tokens long
WARM_UP = 100  # steps
FALL = 0.5  # share of the steps over which the rate falls
ADAM_RATE, MUON_RATE = 3e-3, 0.02
WEIGHT_DECAY = 0.1
CHECKPOINT_EVERY = 200  # steps
LOG_EVERY = 20  # steps
RECENT = 100  # steps whose mean loss the card gives

log = logging.getLogger("pretrain_nano")


def main() -> None:
    """Pretrain, save, score, and write the card."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments = parse_arguments()
    texts = training_texts(arguments.corpus, arguments.domain_documents, arguments.seed)
    tokenizer = train_tokenizer(texts, arguments.vocabulary)
    stream = TokenStream(texts, tokenizer, arguments.seed)
    log.info("%d documents, %d tokens", len(texts), stream.size)
    model = new_model(tokenizer, arguments.hidden, arguments.layers, arguments.seed)
    last_loss = train(model, stream, arguments.steps, arguments.checkpoints)
    save(model, tokenizer, arguments.out)
    scores = {
        source: bits_per_byte(arguments.out, held_out)
        for source, held_out in held_out_texts(arguments.corpus).items()
    }
    log.info("bits per byte: %s", scores)
    text = card(model, scores, facts(arguments, stream.size, last_loss))
    (arguments.out / "README.md").write_text(text, encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the texts")
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished model")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder to resume from")
    parser.add_argument("--steps", type=int, required=True, help=f"of {TOKENS_PER_STEP} tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=256, help="a multiple of 64")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--domain-documents", type=int, default=50_000)
    return parser.parse_args()


def facts(arguments: argparse.Namespace, pass_size: int, last_loss: float) -> dict[str, Any]:
    """The facts about the training for the model card."""
    seen = arguments.steps * TOKENS_PER_STEP
    return {
        "steps": arguments.steps,
        "per_step": TOKENS_PER_STEP,
        "seen": seen / 1e6,
        "size": pass_size / 1e6,
        "passes": seen / pass_size,
        "length": LENGTH,
        "long_every": LONG_EVERY,
        "loss": last_loss,
        "recent": RECENT,
        "wikipedia_passes": WIKIPEDIA_PASSES,
        "command": "python scripts/pretrain_nano.py --corpus DIR --out DIR --checkpoints DIR "
        f"--steps {arguments.steps} --seed {arguments.seed} --hidden {arguments.hidden} "
        f"--layers {arguments.layers} --vocabulary {arguments.vocabulary} "
        f"--domain-documents {arguments.domain_documents}",
    }


def new_model(
    tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int, seed: int
) -> LlamaForCausalLM:
    """A Llama with random weights: heads of 64, input and output embeddings tied."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=64 * round(hidden * 2.75 / 64),
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "weights"))
        return LlamaForCausalLM(config)


def train(model: LlamaForCausalLM, stream: TokenStream, steps: int, folder: Path) -> float:
    """Train `model` in place up to `steps`, from the checkpoint in `folder` if there is one.

    Returns:
        The mean loss of the last steps, in nats per token.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    optimizers = new_optimizers(model)
    done = load_checkpoint(folder, model, optimizers)
    began = time.monotonic()
    losses: list[float] = []
    for step in range(done, steps):
        inputs, targets = (part.to(device) for part in batch(stream, step))
        set_rate(optimizers, rate(step, steps))
        losses.append(train_step(model, optimizers, inputs, targets))
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            speed = (step + 1 - done) * TOKENS_PER_STEP / (time.monotonic() - began)
            loss = mean(losses[-LOG_EVERY:])
            log.info("step %d/%d loss %.3f, %.0f tokens/s", step + 1, steps, loss, speed)
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
            save_checkpoint(folder, step + 1, model, optimizers)
    return mean(losses[-RECENT:]) if losses else float("nan")


def train_step(
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    inputs: Tensor,
    targets: Tensor,
) -> float:
    """One step on a batch; the matrix products are in bfloat16, the weights in float32."""
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
        states = model.model(input_ids=inputs, use_cache=False).last_hidden_state.flatten(0, 1)
        parts = zip(states.split(1024), targets.flatten().split(1024), strict=True)
        loss = sum(  # in parts, so that the logits of a batch need not exist all at once
            cross_entropy(model.lm_head(part).float(), wanted, reduction="sum")
            for part, wanted in parts
        )
    loss = loss / targets.numel()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.item())


def batch(stream: TokenStream, step: int) -> tuple[Tensor, Tensor]:
    """The step's inputs and next tokens, both (sequences, length)."""
    length = CONTEXT if step % LONG_EVERY == LONG_EVERY - 1 else LENGTH
    tokens = torch.from_numpy(stream.read(step * TOKENS_PER_STEP, TOKENS_PER_STEP + 1))
    return tokens[:-1].view(-1, length), tokens[1:].view(-1, length)


def new_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embeddings and the norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in inside]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(
            rest, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=True
        ),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full_rate"] = group["lr"]
    return optimizers


def rate(step: int, steps: int) -> float:
    """The learning rate of a step (from 0), relative to the full rate."""
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / (FALL * steps))


def set_rate(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Set every rate to `share` of its full value."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = share * group["full_rate"]


def load_checkpoint(
    folder: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]
) -> int:
    """Load the checkpoint's state; returns the number of finished steps."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    log.info("resumed after step %d", state["step"])
    return int(state["step"])


def save_checkpoint(
    folder: Path, step: int, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]
) -> None:
    """Replace the checkpoint atomically, so that a crash leaves a complete one."""
    folder.mkdir(parents=True, exist_ok=True)
    states = [optimizer.state_dict() for optimizer in optimizers]
    state = {"step": step, "model": model.state_dict(), "optimizers": states}
    torch.save(state, folder / "checkpoint.new")
    (folder / "checkpoint.new").replace(folder / "checkpoint.pt")


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model, generation settings and tokenizer in the format of transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
