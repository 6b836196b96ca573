"""The ServerApp: fedrouter's server, started by ``flwr run``.

Its run configuration:

* ``config``: a TOML file on the server's machine, or "" for the defaults.
* ``settings``: ``key=value`` texts laid over it, separated by ``;``.
* ``output``: the run folder. An unfinished run that is there is gone on with.
"""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrouter.adapters.lora import LoraSpec, adapter_layout
from fedrouter.config import (
    DataConfig,
    ResolvedConfig,
    dump_config,
    load_config,
    load_resolved,
)
from fedrouter.config.resolve import resolve
from fedrouter.data.loading import load_splits
from fedrouter.data.rows import Row
from fedrouter.engines.flower.engine import FlowerEngine
from fedrouter.errors import ConfigError, DataError
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.progress import Progress
from fedrouter.server.expected import expected_arrays
from fedrouter.server.resource_usage import ResourceUsage
from fedrouter.server.server import Server
from fedrouter.storage.run_folder import RunFolder, is_run
from fedrouter.tracking import check_installed


class PrintedProgress(Progress):
    """Phases, the loss of every round and messages as lines in Flower's log."""

    def __init__(self) -> None:
        self._round = ""

    def phase(self, name: str, total: int) -> None:
        """A phase begins."""
        print(f"fedrouter: {name}, {total} client tasks", flush=True)

    def round(self, number: int, of: int) -> None:
        """A round begins."""
        self._round = f"round {number}/{of}"

    def loss(self, value: float) -> None:
        """A round has ended."""
        print(f"fedrouter: {self._round}: loss {value:.4f}", flush=True)

    def message(self, text: str) -> None:
        """A line."""
        print(f"fedrouter: {text}", flush=True)


def make_server_app() -> ServerApp:
    """A ServerApp that runs a federation in a run folder."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        """Begin the run, or go on with it."""
        given = context.run_config
        serve(
            grid,
            config=str(given["config"]),
            settings=str(given["settings"]),
            output=Path(str(given["output"])),
        )

    return app


def serve(grid: Grid, *, config: str, settings: str, output: Path) -> None:
    """A run on the nodes of a grid, from its start or from its last finished round."""
    begun = is_run(output)
    if begun and RunFolder.open(output).finished:
        print(f"fedrouter: {output} is finished; nothing to do", flush=True)
        return
    made = load_resolved(output / "config.toml") if begun else _resolved(config, settings)
    if made.federation.devices:
        raise ConfigError(
            "federation.devices simulates devices on one machine, and these are real; unset it"
        )
    check_installed(made.tracking)
    if begun:
        folder = RunFolder.open(output)
    else:
        folder = RunFolder.create(output, dump_config(made), deployed=True)
    shared_model = SharedModel.load(made.model, made.engine.device)
    layout = adapter_layout(shared_model.base.model, LoraSpec.from_config(made.adapter))
    engine = FlowerEngine(
        grid,
        made,
        expected=expected_arrays(shared_model, layout.spec, made),
        fingerprint=shared_model.base.compared_fingerprint(
            mixed_quantization=made.federation.mixed_quantization
        ),
        initial=shared_model.initial(layout.spec, made.seed),
        folder=str((output / "clients").resolve()),
    )
    progress = PrintedProgress()
    for note in filter(None, (shared_model.base.note, layout.note)):
        progress.message(note)
    server = Server(
        made, shared_model, layout.spec, engine, costs=ResourceUsage(), progress=progress
    )
    server.execute(folder)
    print(f"fedrouter: finished; run folder: {output}", flush=True)


def _resolved(config: str, settings: str) -> ResolvedConfig:
    """The configuration of a new run."""
    overrides = [text.strip() for text in settings.split(";") if text.strip()]
    asked = load_config(Path(config) if config else None, overrides)
    return resolve(asked, {row.task for row in _rows(asked.data, asked.seed)})


def _rows(data: DataConfig, seed: int) -> list[Row]:
    """The training rows, to read numbers of tasks off, where the server has them.

    The built-in tasks, which stand for rows that are not named, are not those of the nodes.
    """
    if data.train is None and data.dataset is None and not data.sources:
        return []
    try:
        splits = load_splits(data, seed)
    except DataError:
        return []
    for note in splits.notes:
        PrintedProgress().message(note)
    return splits.train
