"""The ClientApp: fedrouter's client next to its data, answering Flower's messages.

A node's configuration says what is the node's own business:

* ``partition-id``, ``num-partitions``: the client's id, and how many there are; in a simulation
  Flower sets both. The client holds its share of the run's data.
* ``client-id``: the client's id, where the node has data of its own.
* ``data``: its own file of rows; "run": it may read the files that the run's configuration names.
* ``state-dir``: where it keeps its local tasks and its own adapters.
* ``model``: the base model's folder or name on this machine.
* ``quantization``: as ``model.quantization``; the same as on the server.
* ``rank``: the rank of its adapters, at most the run's.
* ``min-samples``: it describes no local task of fewer samples (default 10; a run may ask for more).
* ``secure-aggregation``: whether it takes part in runs with secure aggregation only.
* ``min-clients``: the least number of clients in a sum (a run may ask for more).
* ``node-key``, ``trusted-keys``: files with the key with which it signs in secure sums, and with
  the public keys of all clients. With them it takes part in a sum only with clients that sign.
* ``task-names``: whether the server is told the names of true tasks (default: it is not).

A server may choose none of these: ``data`` and ``state-dir`` must be given. What it may choose is
listed in `node_config.SET_BY_RUN`. Only in a simulation, in which server and clients are one
machine, does the run's configuration decide.
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedrouter.adapters.lora import LoraSpec
from fedrouter.client.client import Client
from fedrouter.config import ResolvedConfig, parse_resolved
from fedrouter.data.client_data import ClientData, deal, sample_test
from fedrouter.data.loading import load_splits
from fedrouter.engines.flower.node_config import (
    NodeConfig,
    client_id,
    client_rank,
    node_config,
    reports_task_names,
    signing_keys,
)
from fedrouter.engines.flower.records import from_records, to_records
from fedrouter.errors import ConfigError, DataError, FedRouterError, MessageError, ModelError
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.model.memory import release_memory
from fedrouter.protocol.codec import pack_reply, unpack_request
from fedrouter.strategies import strategy_class
from fedrouter.training.trainer import train

UNSIGNED = (
    "keys of secure sums are not signed, since this node has no trusted-keys: it believes the "
    "server who the other clients are (docs/privacy.md)"
)
_REASONS: Mapping[type[FedRouterError], str] = {
    ConfigError: "has a configuration that it cannot use",
    DataError: "has data that it cannot use",
    ModelError: "has a base model that it cannot use",
}


def make_client_app(*, simulated: bool = False) -> ClientApp:
    """A ClientApp that answers greetings and tasks.

    Args:
        simulated: the clients are actors on the server's own machine, so that the run's
            configuration may say where data, state and base model are.
    """
    app = ClientApp()

    @app.query()
    def hello(message: Message, context: Context) -> Message:
        """Say which client this is."""
        texts = _introduction(message, context.node_config)
        return Message(to_records(texts, {}), reply_to=message)

    @app.train()
    def work(message: Message, context: Context) -> Message:
        """Do a task, or report an error."""
        try:
            answer = _answer(message, context.node_config, simulated=simulated)
        except Exception as error:
            answer = to_records({"error": _reason(error)}, {})
        return Message(answer, reply_to=message)

    return app


def _introduction(message: Message, node: NodeConfig) -> dict[str, str]:
    """Who this is: the client's id and, if it is not the run's, the rank of its adapters.

    A rank that is not possible is refused with the first task, whose reply can say why.
    """
    texts = {"client": str(client_id(node))}
    try:
        config = parse_resolved(from_records(message.content)[0]["config"])
        rank = client_rank(config, node)
    except FedRouterError:
        return texts
    return texts if rank is None else {**texts, "rank": str(rank)}


def _reason(error: Exception) -> str:
    """What a server is told of an error: no path, no name of a column, no row.

    The texts of a `MessageError` are about the message alone; all others stay in the node's log.
    """
    if isinstance(error, MessageError):
        return f"MessageError: {error}"
    print(f"fedrouter client: {error!r}", file=sys.stderr, flush=True)
    what = next((text for kind, text in _REASONS.items() if isinstance(error, kind)), "failed")
    return f"the client {what} ({type(error).__name__}); its own log says more"


def _answer(message: Message, node: NodeConfig, *, simulated: bool) -> RecordDict:
    texts, arrays = from_records(message.content)
    config = node_config(parse_resolved(texts["config"]), node, simulated=simulated)
    shared_model = _shared_model(config.model.model_dump_json(), config.engine.device)
    spec = LoraSpec.from_config(config.adapter).resolved(shared_model.base.model)
    client = _client(config, texts, node, shared_model, spec, simulated=simulated)
    initial = shared_model.initial(spec, config.seed)
    work = client.prepare(unpack_request(texts["task"], arrays, initial))
    engine = config.engine
    results = list(
        train(
            shared_model.base,
            spec,
            work.jobs,
            engine.fuse,
            checkpointing=engine.gradient_checkpointing,
        )
    )
    release_memory()
    header, out = pack_reply(client.finish(work, results), config.federation.transport)
    base = shared_model.base.compared_fingerprint(
        mixed_quantization=config.federation.mixed_quantization
    )
    return to_records({"reply": header, "base": base}, out)


def _client(
    config: ResolvedConfig,
    texts: Mapping[str, str],
    node: NodeConfig,
    shared_model: SharedModel,
    spec: LoraSpec,
    *,
    simulated: bool,
) -> Client:
    id, summed = client_id(node), config.privacy.secure_aggregation
    keys = signing_keys(node) if summed else None
    run = hashlib.sha256(texts["config"].encode()).hexdigest()
    folder = Path(texts["folder"])
    if "state-dir" in node:
        folder = Path(str(node["state-dir"])) / run[:16]
    if summed and keys is None and not (simulated or folder.exists()):
        print(f"fedrouter client: {UNSIGNED}", flush=True)
    rows = config.model_dump_json()  # the key by which they are read once
    return Client(
        id,
        _own_rows(rows) if "client-id" in node else _dealt(rows)[id],
        shared_model=shared_model,
        spec=spec,
        config=config,
        folder=folder,
        rank=client_rank(config, node),
        # On a machine of its own, the rows are the node's; no run may have them stored as texts.
        keep_predictions=simulated and config.evaluation.predictions,
        report_task_names=simulated or reports_task_names(node),
        signing_keys=keys,
        run=run,
    )


@lru_cache(maxsize=1)
def _shared_model(model: str, device: str) -> SharedModel:
    """The base model of this process, which all clients that run in it share."""
    from fedrouter.config import ModelConfig

    return SharedModel.load(ModelConfig.model_validate_json(model), device)


@lru_cache(maxsize=1)
def _own_rows(config_json: str) -> ClientData:
    """The rows of a node that has data of its own."""
    config = ResolvedConfig.model_validate_json(config_json)
    splits = load_splits(config.data, config.seed)
    for note in splits.notes:
        print(f"fedrouter client: {note}", flush=True)
    return ClientData(
        splits.train, sample_test(splits.test, config.evaluation.samples, config.seed)
    )


@lru_cache(maxsize=1)
def _dealt(config_json: str) -> Sequence[ClientData]:
    """The rows of all clients of a run, read and dealt once for all that this process hosts."""
    config = ResolvedConfig.model_validate_json(config_json)
    splits = load_splits(config.data, config.seed)
    return deal(config, splits, strategy_class(config.strategy).pooled)
