"""Accuracy of clustering and routing in each space, without training.

Eight clients, true numbers of tasks, each `clustering.space` in each scenario: "raw" with the
paper's embedding, the others with that of mode `auto`. Routing accuracy is measured on the test
rows; a discovered task stands for the true task of most of its training rows. ARI is measured on
the training rows. The column `learned` is the accuracy of a trained router: multinomial logistic
regression on the discovered tasks over the standardized embeddings of all training rows, which
federated training would converge to as well.

``python -m bench.spaces [--full | --seeds N] [--model NAME] [--train FILE --test FILE]``
(nano and the built-in tasks, or another base model, or rows from files; --spaces: some of them)
"""

import argparse
import tempfile
from pathlib import Path
from statistics import mean

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bench.output import publish
from fedrouter.adapters.lora import LoraSpec
from fedrouter.client.client import Client
from fedrouter.config import Config, ModelConfig, load_config
from fedrouter.config.resolve import resolve
from fedrouter.data.client_data import deal
from fedrouter.data.loading import load_splits
from fedrouter.engines.in_process import InProcessEngine
from fedrouter.evaluation.metrics import ari, contingency, majority, routing_accuracy
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.model.embedding import EmbeddingSpec
from fedrouter.progress import Progress
from fedrouter.protocol.messages import ClientReply
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.server.rounds import exchanges
from fedrouter.strategies import make_strategy

AUTO_EMBEDDING = ("model.embedding_layer=auto", "model.embedding_pooling=mean_without_first")
SPACES: dict[str, tuple[str, ...]] = {
    "raw": (),
    "standardized": AUTO_EMBEDDING,
    "whitened": AUTO_EMBEDDING,
}
SCENARIOS = ("single", "dual", "all", "dirichlet")


def found(shared_model: SharedModel, config: Config) -> tuple[float, float, float]:
    """Routing accuracy of the router and of a trained one, and ARI, for one federation."""
    splits = load_splits(config.data, config.seed)
    config = resolve(config, {row.task for row in splits.train})
    spec = LoraSpec().resolved(shared_model.base.model)
    with tempfile.TemporaryDirectory() as folder:
        clients = {
            id: Client(
                id, rows, shared_model=shared_model, spec=spec, config=config, folder=Path(folder)
            )
            for id, rows in enumerate(deal(config, splits))
        }
        engine = InProcessEngine(shared_model.base, spec, clients, transport="float32", fuse=1)
        strategy = make_strategy(config)
        initial = shared_model.initial(spec, 0)
        replies = engine.run(strategy.profile(engine.online()))
        profiles = [reply.profile for reply in replies if isinstance(reply, ClientReply)]
        state = strategy.init(filter(None, profiles), initial, "")
        shapes = {name: array.shape for name, array in initial.items()}
        embedding = EmbeddingSpec.from_config(config.model)
        expected = ExpectedArrays(shapes, shared_model.base.embed([], embedding).shape[1])
        state, _ = exchanges(strategy, engine, state, expected, Progress())
        held = [
            (row, state.assignment[client.id][label])
            for client in clients.values()
            for label, row in zip(client.store.labels(), client.data.train, strict=True)
        ]
    rows, tasks = zip(*held, strict=True)
    true = [row.task or "" for row in rows]
    table = contingency(tasks, true)
    assert state.router is not None
    points, tests = (
        shared_model.base.embed([row.instruction for row in some], embedding)
        for some in (rows, splits.test)
    )
    learned = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    routed = state.router.route(tests).tasks, learned.fit(points, tasks).predict(tests).tolist()
    names = [row.task or "" for row in splits.test]
    nearest, classified = (
        routing_accuracy(contingency(one, names), majority(table)) for one in routed
    )
    return nearest, classified, ari(table)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="ten seeds instead of two")
    parser.add_argument("--seeds", type=int, help="another number of seeds")
    parser.add_argument("--model", default="nano", help="as model.name")
    parser.add_argument("--spaces", default=",".join(SPACES), help="some of the spaces")
    parser.add_argument("--train", help="training rows that name their task")
    parser.add_argument("--test", help="test rows")
    asked = parser.parse_args()
    seeds = range(1, (asked.seeds or (10 if asked.full else 2)) + 1)
    data = [f"data.train={asked.train}", f"data.test={asked.test}"] if asked.train else []
    shared_model = SharedModel.load(ModelConfig(name=asked.model))
    rows = []
    for scenario in SCENARIOS:
        for space in asked.spaces.split(","):
            sets = [*data, "mode=paper", f"data.scenario={scenario}", f"clustering.space={space}"]
            sets += [f"model.name={asked.model}", *SPACES[space]]
            results = [
                found(shared_model, load_config(None, [*sets, f"seed={seed}"])) for seed in seeds
            ]
            accuracies, learned, aris = zip(*results, strict=True)
            rows.append(
                {
                    "scenario": scenario,
                    "space": space,
                    "accuracy": mean(accuracies),
                    "deviation": float(np.std(accuracies, ddof=1)),
                    "lowest": min(accuracies),
                    "learned": mean(learned),
                    "ARI": mean(aris),
                }
            )
    notes = [
        f"{asked.model}, float32; {len(seeds)} seeds; rows: {asked.train or 'built-in tasks'}."
    ]
    publish("spaces", "Finding tasks and routing to them", rows, notes)


if __name__ == "__main__":
    main()
