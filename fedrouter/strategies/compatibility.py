"""What secure aggregation is not compatible with, said before a run begins."""

from collections.abc import Iterator

from fedrouter.config import AUTO, ResolvedConfig, registered
from fedrouter.errors import ConfigError


def check_secure_aggregation(config: ResolvedConfig) -> None:
    """Check that a run can do with sums over clients, if it is to sum securely.

    Raises:
        ConfigError: it cannot; one line that lists every fault and what is compatible.
    """
    if not config.privacy.secure_aggregation:
        return
    faults = [*_numbers(config), *_settings(config)]
    if faults:
        raise ConfigError(f"privacy.secure_aggregation = true: {'; '.join(faults)}")


def _numbers(config: ResolvedConfig) -> Iterator[str]:
    """Faults in numbers of clients."""
    clients = config.federation.clients
    for key, value in (
        ("min_clients", config.privacy.min_clients),
        ("threshold", config.privacy.threshold or 0),
    ):
        if value > clients:
            yield (
                f"privacy.{key} = {value} should be at most federation.clients = {clients}, or "
                "no sum is ever opened"
            )


def _settings(config: ResolvedConfig) -> Iterator[str]:
    """Settings that need what single clients send."""
    if config.aggregation.robust != "none":
        yield (
            f"aggregation.robust = {config.aggregation.robust!r} compares the updates of single "
            "clients, which the server does not see; set it to 'none'"
        )
    if config.federation.ranks is not None:
        yield "federation.ranks gives vectors of different sizes, which have no sum; unset it"
    devices = ("federation.devices",) if config.federation.devices else ()
    if timed := (*config.federation.timed, *devices):
        yield (
            f"{', '.join(timed)} would close a sum before all of its clients have answered, and a "
            "late reply cannot be part of a sum that was opened; unset"
            + (" it" if len(timed) == 1 else " them")
        )
    if config.federation.budget_mb is not None:
        yield "federation.budget_mb does not count the exchanges of a sum; unset it"
    strategies = registered()
    if not strategies[config.strategy].cls.from_sums:
        names = ", ".join(name for name, entry in strategies.items() if entry.cls.from_sums)
        yield (
            f"strategy {config.strategy!r} needs what single clients send; choose one of {names}"
        )
    elif config.strategy == "fedrouter":
        clustering = config.clustering
        if AUTO in (clustering.n_local, clustering.n_global) or clustering.n_local is None:
            yield (
                "finding the number of tasks compares adapters on single clients; set "
                "clustering.n_local and clustering.n_global to numbers"
            )
        if clustering.space == "raw":
            yield (
                "clustering.space = 'raw' joins the centroids of single clients; set it to "
                "'whitened' or 'standardized'"
            )
