"""Aggregation of trained adapters: the weighted mean of the paper, and robust rules."""

from fedrouter.strategies.aggregation.by_rank import ordered
from fedrouter.strategies.aggregation.mean import WeightedMean
from fedrouter.strategies.aggregation.private import movement_ratio, opened_means, private_means
from fedrouter.strategies.aggregation.robust import Aggregate, aggregate

__all__ = [
    "Aggregate",
    "WeightedMean",
    "aggregate",
    "movement_ratio",
    "opened_means",
    "ordered",
    "private_means",
]
