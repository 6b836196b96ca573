"""The router and the adapters in a run folder."""

from fedrouter.adapters.lora import LoraSpec, read_adapter
from fedrouter.config import ResolvedConfig
from fedrouter.errors import AdapterError, RunError
from fedrouter.routing.router import Router
from fedrouter.storage.run_folder import RunFolder
from fedrouter.types import AdapterWeights


def _adapter_names(run: RunFolder) -> list[str]:
    return [path.name for path in sorted(run.path.glob("tasks/*/"))]


def read_router(run: RunFolder, config: ResolvedConfig) -> Router | None:
    """The router of a run; None if the run has a single adapter."""
    if (run.path / "router.json").exists():
        return Router.load(run.path)
    if len(_adapter_names(run)) != 1:
        raise nothing_to_route(run, config)
    return None


def nothing_to_route(run: RunFolder, config: ResolvedConfig) -> RunError:
    """What a run of a method without a router is answered."""
    return RunError(
        f"{run.path}: the adapters of strategy {config.strategy!r} stay with the clients, so "
        "that there is nothing to route to; use a run of 'fedrouter'"
    )


def read_adapters(
    run: RunFolder, router: Router | None
) -> tuple[LoraSpec, dict[str, AdapterWeights]]:
    """The shape and the weights of all adapters of a run."""
    names = router.geometry.tasks if router else _adapter_names(run)
    adapters = {name: read_adapter(run.path / "tasks" / name) for name in names}
    specs = {spec for _, spec in adapters.values()}
    if len(specs) > 1:
        raise AdapterError(
            f"the adapters in {run.path / 'tasks'} differ in rank, alpha or targets; "
            "put back the ones that the run wrote"
        )
    return specs.pop(), {name: weights for name, (weights, _) in adapters.items()}
