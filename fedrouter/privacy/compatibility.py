"""What differential privacy does not work with."""

from fedrouter.config import ResolvedConfig
from fedrouter.errors import ConfigError


def check_compatible(config: ResolvedConfig, private: bool) -> None:
    """Refuse settings that differential privacy does not work with, all in one line.

    Args:
        config: one with a privacy budget.
        private: whether the method works with it.

    Raises:
        ConfigError: a setting is not compatible.
    """
    faults = []
    by_task = config.strategy == "fedrouter"
    if not (private or by_task):
        faults.append("strategy should be fedrouter, fedavg or ffa")
    numbers = config.clustering.n_local, config.clustering.n_global
    if by_task and not all(isinstance(number, int) for number in numbers):
        faults.append(
            "clustering.n_local and clustering.n_global should be numbers, since finding them "
            "compares losses of single clients"
        )
    if by_task and config.clustering.space != "standardized":
        faults.append('clustering.space should be "standardized", where sums have a known bound')
    if config.privacy.unit == "client" and config.aggregation.robust != "none":
        faults.append('aggregation.robust should be "none", since other rules use single updates')
    if config.federation.ranks is not None or config.aggregation.ranks == "svd":
        faults.append("federation.ranks and aggregation.ranks should be unset")
    if config.federation.equal_time:
        faults.append(
            "federation.equal_time should be false, since a round that is repeated with other "
            "steps would have the same noise"
        )
    if config.federation.timed and config.federation.late == "next":
        faults.append(
            'federation.late should be "drop", since a late reply that counts in another round '
            "when it is repeated would have the same noise"
        )
    if faults:
        raise ConfigError(f"privacy.epsilon is set: {'; '.join(faults)}")
