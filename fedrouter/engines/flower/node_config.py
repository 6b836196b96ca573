"""What a run may set on a node, and what is the node's own.

`SET_BY_RUN` is all that a client takes from the configuration that a server sends. Where data and
state are, which base model is loaded and on which device, is in the node's own configuration; every
other key has its default.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedrouter.config import Config, PrivacyConfig, ResolvedConfig
from fedrouter.config.explain import explain
from fedrouter.config.resolve import resolve
from fedrouter.errors import ConfigError
from fedrouter.secure_aggregation.signatures import SigningKeys, read_signing_keys

MIN_SAMPLES = 10  # of a local task that a node describes, if its owner sets no other number
NodeConfig = Mapping[str, object]

SET_BY_RUN = (
    "strategy",
    "seed",
    "mode",
    "model.dtype",
    "model.max_length",
    "model.template",
    "model.embedding_layer",
    "model.embedding_pooling",
    "adapter.rank",
    "adapter.alpha",
    "adapter.dropout",
    "adapter.targets",
    "data.test_fraction",
    "federation.clients",
    "federation.mixed_quantization",
    "federation.ranks",
    "federation.rounds",
    "federation.transport",
    "federation.error_feedback",
    "clustering.n_local",
    "clustering.n_global",
    "clustering.space",
    "privacy.secure_aggregation",
    "privacy.min_clients",
    "privacy.threshold",
    "privacy.min_samples",
    "training.batch_size",
    "training.lr",
    "training.lr_min",
    "training.max_grad_norm",
    "privacy.epsilon",
    "privacy.delta",
    "privacy.unit",
    "privacy.max_norm",
    "privacy.profile_share",
    "privacy.seeded_noise",
    "evaluation.samples",
    "evaluation.max_new_tokens",
    "engine.fuse",
)


def client_id(node: NodeConfig) -> int:
    """The id of the client on a node."""
    return int(str(node.get("client-id", node.get("partition-id", -1))))


def client_rank(config: ResolvedConfig, node: NodeConfig) -> int | None:
    """The rank of the adapters on a node: its own, or what the run gives the client; None: that of
    the run.

    Raises:
        ConfigError: the node's own is not a number from 1 to the run's.
    """
    own, most = node.get("rank"), config.adapter.rank
    if own is None:
        return config.federation.rank(client_id(node))
    if not str(own).isdecimal() or not 1 <= int(str(own)) <= most:
        raise ConfigError(
            f"this node's --node-config: rank = {own} should be a number from 1 to the run's "
            f"adapter.rank = {most}"
        )
    return int(str(own))


def reports_task_names(node: NodeConfig) -> bool:
    """Whether scores and counts are reported by the names of true tasks; false unless the owner of
    the node says `task-names = true`.

    Raises:
        ConfigError: it is neither true nor false.
    """
    return _flag(node, "task-names")


def signing_keys(node: NodeConfig) -> SigningKeys | None:
    """The key with which a node signs in secure sums, and those that it trusts; None if its
    configuration names none.

    Raises:
        ConfigError: it names one of the two files only, or one that cannot be used.
        MissingExtraError: the package for it is not installed.
    """
    given = [node.get(key) for key in ("node-key", "trusted-keys")]
    if not any(given):
        return None
    if not all(given):
        raise ConfigError(
            "this node's --node-config: node-key and trusted-keys need each other; give both, or "
            "neither"
        )
    key, trusted = (Path(str(name)) for name in given)
    try:
        return read_signing_keys(key.read_bytes(), trusted.read_text("utf-8"), client_id(node))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"node-key = {str(key)!r}, trusted-keys = {str(trusted)!r}: {error}; see docs/deploy.md"
        ) from None


def node_config(config: ResolvedConfig, node: NodeConfig, *, simulated: bool) -> ResolvedConfig:
    """The configuration that a client works with.

    Args:
        config: the run's.
        node: the node's own.
        simulated: the node is a part of the server's own machine, so that the run's configuration
            holds as it is, but for the device.

    Raises:
        ConfigError: outside a simulation, the node does not say where its data and state are; or
            a value is not allowed.
    """
    for key in ("data", "state-dir"):
        if key not in node and not simulated:
            raise ConfigError(f"this node's --node-config lacks {key!r}; start it again with it")
    device = str(node.get("device", "auto"))
    try:
        if simulated:
            return config.replace(engine=config.engine.replace(device=device))
        return _own(config, node, device)
    except ValidationError as error:
        given = {"train": node.get("data"), "name": node.get("model"), **node}
        faults = "; ".join(explain(error, given))
        raise ConfigError(f"this node's --node-config: {faults}") from error


def _own(config: ResolvedConfig, node: NodeConfig, device: str) -> ResolvedConfig:
    """The configuration of a node that is a machine of its own."""
    sections = taken(config)
    sections["engine"]["device"] = device
    sections["model"]["name"] = str(node.get("model", "nano"))
    sections["model"]["quantization"] = node.get("quantization")
    sections["privacy"] = _privacy(config.privacy, node)
    if node["data"] == "run":  # the owner lets runs name the files to read
        sections["data"] = dict(config.data)
    else:  # no scenario deals out rows that are all one client's
        sections["data"] |= {"train": Path(str(node["data"])), "scenario": "all"}
    return resolve(Config.model_validate(sections), tasks=())


def _privacy(asked: PrivacyConfig, node: NodeConfig) -> dict[str, Any]:
    """`[privacy]` by the stricter of run and node."""
    return {
        **dict(asked),
        "secure_aggregation": asked.secure_aggregation or _flag(node, "secure-aggregation"),
        "min_clients": max(asked.min_clients, _number(node, "min-clients", 2)),
        "min_samples": max(asked.min_samples or 1, _number(node, "min-samples", MIN_SAMPLES)),
    }


def _number(node: NodeConfig, key: str, default: int) -> int:
    """A whole number in a node's own configuration.

    Raises:
        ConfigError: it is none.
    """
    given = str(node.get(key, default))
    if not given.isdecimal():
        raise ConfigError(f"this node's --node-config: {key} = {given!r} should be a whole number")
    return int(given)


def _flag(node: NodeConfig, key: str) -> bool:
    """A truth value in a node's own configuration, false if it is not there.

    Raises:
        ConfigError: it is neither true nor false.
    """
    given = str(node.get(key, False)).lower()
    if given not in ("true", "false"):
        raise ConfigError(f"this node's --node-config: {key} = {given!r} should be true or false")
    return given == "true"


def taken(config: Config) -> dict[str, Any]:
    """The values of `SET_BY_RUN`, by section."""
    sections: dict[str, Any] = {}
    for key in SET_BY_RUN:
        section, _, name = key.rpartition(".")
        source: Any = getattr(config, section) if section else config
        place = sections.setdefault(section, {}) if section else sections
        place[name] = getattr(source, name)
    return sections
