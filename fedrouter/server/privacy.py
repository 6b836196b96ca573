"""Differential privacy at the server: the public profile, and what the summary says of a run."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fedrouter.config.resolve import ResolvedModelConfig
from fedrouter.data.builtin import builtin_rows
from fedrouter.model.base_model import BaseModel
from fedrouter.model.embedding import EmbeddingSpec
from fedrouter.routing.types import TaskProfile
from fedrouter.strategies import ServerState, Strategy
from fedrouter.strategies.aggregation import movement_ratio
from fedrouter.types import AdapterWeights

PUBLIC_PROMPTS = 40  # of each built-in task
PUBLIC_SEED = 2**31  # of prompts that no run on the built-in tasks has by its own seed


def public_profile(base: BaseModel, config: ResolvedModelConfig) -> TaskProfile:
    """Mean and variances of the embeddings of prompts that are nobody's: those of the built-in
    tasks, the same on every machine."""
    rows, _ = builtin_rows(PUBLIC_PROMPTS, 1, PUBLIC_SEED)
    points = base.embed([row.instruction for row in rows], EmbeddingSpec.from_config(config))
    variances = points.astype(np.float64).var(axis=0)
    return TaskProfile(
        client=0,
        centroids=points.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32),
        counts=(len(points),),
        second_moments=(float(variances.sum()),),
        fourth_moments=(float(variances.sum() ** 2),),
        variances=variances.astype(np.float32),
    )


def privacy_table(
    strategy: Strategy[Any], state: ServerState, initial: AdapterWeights
) -> dict[str, Any] | None:
    """What a run has spent; None without differential privacy.

    Returns:
        `epsilon`, `delta`: the budget; `spent`: the epsilon spent at this delta; `unit`: what is
        protected; `releases`: the number of noisy sums; `movement`: adapter -> how far it moved,
        in relation to the norm of its noise, empty if the noise is not the server's.
    """
    plan, ledger = strategy.privacy, state.privacy
    if plan is None or ledger is None:
        return None
    noise = strategy.noise_deviation(state.round)
    by_client = strategy.config.privacy.unit == "client"
    return {
        "epsilon": plan.epsilon,
        "spent": ledger.spent(plan.delta),
        "delta": plan.delta,
        "unit": strategy.config.privacy.unit,
        "releases": len(ledger.multipliers),
        "movement": {
            name: movement_ratio(initial, weights, noise)[0]
            for name, weights in state.adapters.items()
            if by_client and noise > 0
        },
        "only_noise": [
            name
            for name, weights in state.adapters.items()
            if by_client and noise > 0 and not movement_ratio(initial, weights, noise)[1]
        ],
    }


def privacy_warnings(
    privacy: Mapping[str, Any] | None, metrics: Mapping[str, Any]
) -> Iterator[str]:
    """Warnings, one line each, that training under differential privacy taught adapters nothing.

    Args:
        privacy: of `privacy_table`.
        metrics: of `score_table`.
    """
    if privacy is None:
        return
    remedy = (
        "train on more clients or rows, with smaller adapters, or with a larger privacy.epsilon"
    )
    if privacy["only_noise"]:
        yield (
            f"WARNING: {', '.join(privacy['only_noise'])} moved no farther than noise alone would; "
            + remedy
        )
    trained, base = metrics["global"], metrics["base"]
    if trained and base and trained["loss"] >= base["loss"]:
        yield (
            f"WARNING: with the adapters the loss on test rows is {trained['loss']:.3f}, without "
            f"{base['loss']:.3f}: training under differential privacy taught them nothing; {remedy}"
        )
