"""MLflow: a SQLite store in the run folder, for
``mlflow ui --backend-store-uri sqlite:///RUN/tracking/mlflow/mlflow.db`` (of the whole package)."""

import logging
import os
import re
import time
from collections.abc import Mapping

from fedrouter.tracking.base import TrackedRun, Tracker

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

EXPERIMENT = "fedrouter"
NAME_LIMIT = 250  # characters of a name
PARAMETERS, METRICS = 100, 1000  # in one call, at most


class MLflow(Tracker):
    """Writes metrics and parameters of one MLflow run.

    Args:
        run: the run; its MLflow run is created once, and gone on with later.
    """

    def __init__(self, run: TrackedRun) -> None:
        for name in ("mlflow", "alembic"):  # they tell of every table that they make
            logging.getLogger(name).setLevel(logging.WARNING)
        store = f"sqlite:///{run.folder / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=store, registry_uri=store)
        self._run = run.stored_id(lambda: self._create(run))
        self._client.update_run(self._run, status="RUNNING")

    def log(self, metrics: Mapping[str, float], round: int) -> None:
        """Write metrics with the round as their step."""
        now = int(time.time() * 1000)
        found = [Metric(_name(name), float(value), now, round) for name, value in metrics.items()]
        for start in range(0, len(found), METRICS):
            self._client.log_batch(self._run, metrics=found[start : start + METRICS])

    def close(self, *, finished: bool) -> None:
        """Say whether the run has come to its end."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")

    def _create(self, run: TrackedRun) -> str:
        """A new MLflow run with the configuration as its parameters; returns its id."""
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        where = (run.folder / "artifacts").as_uri()
        id = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(EXPERIMENT, artifact_location=where)
        )
        made: str = self._client.create_run(id, run_name=run.name).info.run_id
        params = [Param(_name(key), str(value)) for key, value in run.config.items()]
        for start in range(0, len(params), PARAMETERS):
            self._client.log_batch(made, params=params[start : start + PARAMETERS])
        return made


def _name(text: str) -> str:
    """A name as MLflow allows it: task names come from data."""
    return re.sub(r"[^\w\-. :/]", "_", text)[:NAME_LIMIT]
