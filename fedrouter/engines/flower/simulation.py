"""Flower's simulation, started from here: the server in this process, the clients in actors."""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

# Flower reads these when it is imported: no telemetry, no look for a newer version.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from fedrouter.engines.flower.client_app import make_client_app


def simulate(serve: Callable[[Grid], dict[str, Any]], clients: int) -> dict[str, Any]:
    """Run a server against `clients` virtual clients; returns what `serve` returns.

    Each actor has one core; the clients that share one share its base model. Flower's own state is
    in a folder that is gone afterwards.

    Raises:
        whatever `serve` raises.
    """
    results: list[dict[str, Any]] = []
    errors: list[BaseException] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001
        try:
            results.append(serve(grid))
        except BaseException as error:
            errors.append(error)

    logging.getLogger("flwr").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="fedrouter-flwr-") as home, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ["FLWR_HOME"] = home
        run_simulation(
            server_app=server,
            client_app=make_client_app(simulated=True),
            num_supernodes=clients,
            backend_config={
                "client_resources": {"num_cpus": 1.0, "num_gpus": 0.0},
                "init_args": {"include_dashboard": False, "log_to_driver": False},
            },
        )
    if errors:
        raise errors[0]
    return results[0]
