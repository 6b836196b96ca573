"""The ClientApp: fedrouter's client next to its data, answering Flower's messages.

A node's configuration says what is the node's own business:

* ``partition-id``, ``num-partitions``: the client's id, and how many there are; in a simulation
  Flower sets both. The client holds its share of the run's data.
* ``client-id``: the client's id, where the node has data of its own.
* ``data``: its own file of rows; "run": it may read the files that the run's configuration names.
* ``state-dir``: where it keeps its local tasks and its own adapters.
* ``model``: the base model's folder or name on this machine.

A server may choose none of these: ``data`` and ``state-dir`` must be given. Only in a simulation,
in which server and clients are one machine, does the run's configuration decide.
"""

import hashlib
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from pydantic import ValidationError

from fedrouter.adapters.lora import LoraSpec
from fedrouter.client.client import Client
from fedrouter.config import ResolvedConfig, ResolvedDataConfig, Section, parse_resolved
from fedrouter.config.explain import explain
from fedrouter.data.client_data import ClientData, deal, sample_test
from fedrouter.data.loading import load_splits
from fedrouter.engines.flower.records import from_records, to_records
from fedrouter.errors import ConfigError, FedRouterError
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.model.memory import release_memory
from fedrouter.protocol.codec import pack_reply, unpack_request
from fedrouter.strategies import strategy_class
from fedrouter.training.trainer import train

NodeConfig = Mapping[str, object]


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
        texts = {"client": str(client_id(context.node_config))}
        return Message(to_records(texts, {}), reply_to=message)

    @app.train()
    def work(message: Message, context: Context) -> Message:
        """Do a task. An error is reported in a text of our own, which holds no sample."""
        try:
            answer = _answer(message, context.node_config, simulated=simulated)
            return Message(answer, reply_to=message)
        except FedRouterError as error:
            reason = f"{type(error).__name__}: {error}"
        except Exception as error:  # whose text may quote data
            reason = f"the client failed with {type(error).__name__}; its own log says more"
            print(f"fedrouter client: {error!r}", file=sys.stderr, flush=True)
        return Message(to_records({"error": reason}, {}), reply_to=message)

    return app


def client_id(node: NodeConfig) -> int:
    """The id of the client on a node."""
    return int(str(node.get("client-id", node.get("partition-id", -1))))


def _answer(message: Message, node: NodeConfig, *, simulated: bool) -> RecordDict:
    texts, arrays = from_records(message.content)
    config = node_config(parse_resolved(texts["config"]), node, simulated=simulated)
    shared_model = _shared_model(config.model.model_dump_json(), config.engine.device)
    spec = LoraSpec.from_config(config.adapter).resolved(shared_model.base.model)
    client = _client(config, texts, node, shared_model, spec)
    work = client.prepare(unpack_request(texts["task"], arrays))
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
    return to_records({"reply": header, "base": shared_model.base.fingerprint}, out)


def node_config(config: ResolvedConfig, node: NodeConfig, *, simulated: bool) -> ResolvedConfig:
    """The run's configuration, with the node's own data, device and base model.

    Args:
        config: the run's.
        node: the node's own.
        simulated: as for `make_client_app`.

    Raises:
        ConfigError: outside a simulation, the node does not say where its data and state are; or
            a value is not allowed.
    """
    for key in ("data", "state-dir"):
        if key not in node and not simulated:
            raise ConfigError(f"this node's --node-config lacks {key!r}; start it again with it")
    try:
        return config.replace(**_own_sections(config, node, simulated=simulated))
    except ValidationError as error:
        given = {"train": node.get("data"), "name": node.get("model"), **node}
        faults = "; ".join(explain(error, given))
        raise ConfigError(f"this node's --node-config: {faults}") from error


def _own_sections(
    config: ResolvedConfig, node: NodeConfig, *, simulated: bool
) -> dict[str, Section]:
    """The sections of the configuration in which the node has values of its own."""
    sections: dict[str, Section] = {
        "engine": config.engine.replace(device=str(node.get("device", "auto")))
    }
    if node.get("data", "run") != "run":
        sections["data"] = ResolvedDataConfig(
            train=Path(str(node["data"])),
            test_fraction=config.data.test_fraction,
            scenario="all",  # of a client with data of its own, which no scenario deals out
        )
    if not simulated:
        sections["model"] = config.model.replace(name=str(node.get("model", "nano")))
    return sections


def _client(
    config: ResolvedConfig,
    texts: Mapping[str, str],
    node: NodeConfig,
    shared_model: SharedModel,
    spec: LoraSpec,
) -> Client:
    id = client_id(node)
    key = hashlib.sha256(texts["config"].encode()).hexdigest()[:16]
    folder = Path(str(node["state-dir"])) / key if "state-dir" in node else Path(texts["folder"])
    return Client(
        id,
        _holding(config.model_dump_json(), id, own="client-id" in node),
        shared_model=shared_model,
        spec=spec,
        config=config,
        folder=folder,
    )


@lru_cache(maxsize=1)
def _shared_model(model: str, device: str) -> SharedModel:
    """The base model of this process, which all clients that run in it share."""
    from fedrouter.config import ModelConfig

    return SharedModel.load(ModelConfig.model_validate_json(model), device)


@lru_cache(maxsize=64)
def _holding(config_json: str, id: int, own: bool) -> ClientData:
    """The rows of a client: its own file's, or its share of the run's."""
    config = ResolvedConfig.model_validate_json(config_json)
    splits = load_splits(config.data, config.seed)
    if own:
        for note in splits.notes:
            print(f"fedrouter client: {note}", flush=True)
        test = sample_test(splits.test, config.evaluation.samples, config.seed)
        return ClientData(splits.train, test)
    return deal(config, splits, strategy_class(config.strategy).pooled)[id]
