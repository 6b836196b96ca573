"""Out-of-distribution prompts: detection, and which fallback answers them best.

Each task in turn is left out of the clients' data, and a run trains on the others (`dual`, with the
true numbers of tasks). The test prompts of the task left out are unknown, all others are known.

AUROC is that of `Routes.ood_score`. `caught` and `false alarms` are the shares of unknown and of
known prompts whose score exceeds `router.threshold`. The calibration error is that of the
confidence for known prompts. ROUGE-1 is that of the answers to unknown prompts by the nearest task
and by each fallback.

``python -m bench.unknown [--full] [--train FILE --test FILE]``: built-in tasks, or rows from files
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from sklearn.metrics import roc_auc_score

from bench.output import Cells, publish
from fedrouter.config import Config, load_config
from fedrouter.data.loading import load_splits
from fedrouter.data.rows import Row
from fedrouter.evaluation.metrics import calibration_error
from fedrouter.evaluation.scoring import score
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.experiment import Experiment
from fedrouter.inference.routed_model import RoutedModel
from fedrouter.routing.router import mixtures
from fedrouter.routing.types import AdapterMixture, RoutingPolicy

ANSWERS = 60  # unknown prompts that are answered
SETTINGS = (
    "data.scenario=dual",
    "clustering.n_local=2",
    "federation.rounds=5",
    "training.batch_size=4",
    "training.lr=0.005",
    "training.lr_min=0.0005",
    "model.dtype=bfloat16",
    r'model.template="{instruction}\n"',
    "evaluation.enabled=false",
)
RULES = {
    "nearest": RoutingPolicy(),
    "base": RoutingPolicy(fallback="base", threshold=-np.inf),
    "average": RoutingPolicy(fallback="average", threshold=-np.inf),
    "mix": RoutingPolicy(fallback="mix", threshold=-np.inf),
}


def left_out(config: Config, task: str, shared_model: SharedModel, folder: Path) -> Cells:
    """One row of the table."""
    splits = load_splits(config.data, config.seed)
    for name, rows in (("train", splits.train), ("test", splits.test)):
        write(folder / f"{name}.jsonl", [row for row in rows if row.task != task])
    tasks = {row.task for row in splits.train if row.task != task}
    sets = [
        f"seed={config.seed}",
        f"data.train={folder / 'train.jsonl'}",
        f"data.test={folder / 'test.jsonl'}",
        f"clustering.n_global={len(tasks)}",
    ]
    Experiment(load_config(None, [*SETTINGS, *sets]), shared_model=shared_model).run(folder / "run")
    model = RoutedModel.load(folder / "run")
    assert model.router is not None
    known = [row for row in splits.test if row.task != task]
    unknown = [row for row in splits.test if row.task == task]
    threshold = model.config.router.threshold
    near, far = (
        model.router.route(model.base.embed([row.instruction for row in rows]))
        for rows in (known, unknown)
    )
    right = [model.majority[t] == row.task for t, row in zip(near.tasks, known, strict=True)]
    strange = np.concatenate([near.ood_score, far.ood_score])
    asked = unknown[:ANSWERS]
    routes = model.router.route(model.base.embed([row.instruction for row in asked]))
    return {
        "left out": task,
        "AUROC": float(roc_auc_score([0] * len(known) + [1] * len(unknown), strange)),
        "caught": float((far.ood_score > threshold).mean()),
        "false alarms": float((near.ood_score > threshold).mean()),
        "calibration error": calibration_error(near.confidence, np.array(right)),
        **{
            name: rouge(model, asked, mixtures(model.router.geometry, routes, rule))
            for name, rule in RULES.items()
        },
    }


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSONL."""
    texts = [{"instruction": r.instruction, "response": r.response, "task": r.task} for r in rows]
    path.write_text("".join(json.dumps(text) + "\n" for text in texts))


def rouge(model: RoutedModel, rows: Sequence[Row], how: Sequence[AdapterMixture]) -> float:
    """Mean ROUGE-1 of the answers."""
    texts = model.multi_adapter.generate([row.instruction for row in rows], how, 48)
    return mean(score(text, row.response)["rouge1"] for text, row in zip(texts, rows, strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="every task instead of two")
    parser.add_argument("--train", help="training rows that name their task")
    parser.add_argument("--test", help="test rows")
    asked = parser.parse_args()
    data = [f"data.train={asked.train}", f"data.test={asked.test}"] if asked.train else []
    config = load_config(None, [*SETTINGS, *data, "seed=1"])
    shared_model = SharedModel.load(config.model)
    names = sorted({row.task or "" for row in load_splits(config.data, config.seed).train})
    rows: list[Cells] = []
    for name in names if asked.full else names[:2]:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(left_out(config, name, shared_model, Path(folder)))
    measures = [name for name in rows[0] if name != "left out"]
    rows.append(
        {"left out": "mean", **{name: mean(row[name] for row in rows) for name in measures}}
    )
    notes = [f"nano, bfloat16; one seed; rows: {asked.train or 'built-in tasks'}."]
    publish("unknown", "Prompts from a task that no client held", rows, notes)


if __name__ == "__main__":
    main()
