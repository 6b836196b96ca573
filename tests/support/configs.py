"""Resolved configurations for parts that are tested without an experiment."""

from fedrouter.config import ResolvedConfig, load_config
from fedrouter.config.resolve import resolve


def resolved(*sets: str) -> ResolvedConfig:
    """The paper's choices for rows that name no task, with `sets` laid over them."""
    return resolve(load_config(None, ["mode=paper", *sets]), tasks=())
