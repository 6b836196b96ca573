"""A client's part in sums over clients: its reply is kept in its folder and leaves it masked.

The exchanges of a sum are requests of their own, which may reach the client in different
processes. What it needs between them is in `sum.safetensors`, which is removed with the last.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open

from fedrouter.client.releases import ClientReleases
from fedrouter.config import PrivacyConfig
from fedrouter.errors import MessageError, MissingExtraError
from fedrouter.protocol.codec import pack_request
from fedrouter.protocol.messages import ClientReply, ClientRequest
from fedrouter.protocol.private_sums import noise_multiplier
from fedrouter.protocol.profile_orders import AssignToNearest
from fedrouter.protocol.sums import sum_layouts, sum_vectors
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.secure_aggregation.fixed_point import VectorLayout
from fedrouter.secure_aggregation.keys import Secrets
from fedrouter.secure_aggregation.messages import (
    ConfirmOrder,
    Group,
    KeysOrder,
    MaskOrder,
    PublicKeys,
    SharesOrder,
    SumReply,
)
from fedrouter.secure_aggregation.participant import Participant, as_rows
from fedrouter.secure_aggregation.rules import SumRules
from fedrouter.secure_aggregation.signatures import SigningKeys, SumSignatures
from fedrouter.storage.atomic import write_tensors

_layouts: TypeAdapter[dict[str, VectorLayout]] = TypeAdapter(dict[str, VectorLayout])
_groups: TypeAdapter[tuple[Group, ...]] = TypeAdapter(tuple[Group, ...])


def sum_rules(privacy: PrivacyConfig) -> SumRules:
    """How many clients a sum needs, by the configuration."""
    return SumRules(privacy.min_clients, privacy.threshold)


class SecureSums:
    """What a client does in a sum.

    Args:
        client: its id.
        path: the file for what it needs between exchanges.
        rules: how many clients a sum needs.
        keys: to sign with, and whose signatures count; None: nothing is signed or verified.
        run: of the run's configuration, which is signed too.
        releases: its account under differential privacy; None: it adds no noise.
    """

    def __init__(
        self,
        client: int,
        path: Path,
        rules: SumRules,
        *,
        keys: SigningKeys | None = None,
        run: str = "",
        releases: ClientReleases | None = None,
    ) -> None:
        self._client = client
        self._path = path
        self._rules = rules
        self._keys = keys
        self._run = run
        self._releases = releases

    def begin(
        self,
        request: ClientRequest,
        reply: ClientReply,
        expected: ExpectedArrays,
        projected: NDArray[np.float64],
    ) -> ClientReply:
        """Exchange 1: keep the reply to the rest of the request, and answer with public keys.

        Args:
            request: a request with a `KeysOrder`, with adapters as they arrived.
            reply: the answer to the rest of it.
            expected: what the arrays of the run look like.
            projected: the projection of scatters, shape (d, r).

        Raises:
            MissingExtraError: the packages for it are not installed.
        """
        order = request.sum_order
        assert isinstance(order, KeysOrder), "the first exchange"
        if reply.changed:
            return reply
        private = expected.private_sums
        possible = sum_layouts(request, expected)
        vectors = sum_vectors(request, reply, projected, private)
        layouts = {name: possible[name] for name in vectors}
        try:
            participant = Participant(self._client, order.session, vectors, layouts)
            public = participant.secrets.public
        except ImportError as error:
            raise MissingExtraError("privacy.secure_aggregation", "privacy") from error
        if multiplier := noise_multiplier(request, private):
            question = _digest(request)
            participant = replace(participant, question=question, multiplier=multiplier)
        write_participant(self._path, participant)
        tells = reply.profile is not None and isinstance(request.profile, AssignToNearest)
        tasks = reply.profile.tasks if reply.profile is not None and tells else ()
        signature = None
        if signatures := self._signatures(request):
            signature = as_rows([signatures.sign(self._client, "keys", public)])
        return _masked(reply, PublicKeys(as_rows([public]), tuple(vectors), tasks, signature))

    def answer(self, request: ClientRequest) -> ClientReply:
        """The reply in the exchanges after the first.

        Raises:
            MessageError: the order is refused (see `Participant`), or about another session.
        """
        order, participant = request.sum_order, read_participant(self._path, self._client)
        if order is None or participant.session != order.session:
            raise MessageError("sum: expected an order of the session that began last")
        reply = ClientReply(self._client, request.round)
        if isinstance(order, SharesOrder):
            participant, shares = participant.share(order, self._rules, self._signatures(request))
            write_participant(self._path, participant)
            return _masked(reply, shares)
        if isinstance(order, MaskOrder):
            secret = "" if self._releases is None else self._releases.secret
            participant, vectors = participant.mask(order, self._rules, secret)
            if participant.multiplier and self._releases is not None:
                self._releases.charge(
                    participant.release, participant.answer, participant.multiplier
                )
            write_participant(self._path, participant)
            return _masked(reply, vectors)
        if isinstance(order, ConfirmOrder):
            signatures = self._signatures(request)
            participant, view = participant.confirm(order, self._rules, signatures)
            write_participant(self._path, participant)
            return _masked(reply, view)
        assert not isinstance(order, KeysOrder), "see `begin`"
        self._path.unlink()  # before anything is revealed: there is one answer only
        revealed = participant.unmask(order, self._rules, self._signatures(request))
        if participant.multiplier and self._releases is not None:
            self._releases.open(participant.release, order.survivors)
        return _masked(reply, revealed)

    def _signatures(self, request: ClientRequest) -> SumSignatures | None:
        """What is signed and verified in the sum that a request is a part of."""
        if self._keys is None or request.sum_order is None:
            return None
        return SumSignatures(self._keys, self._run, request.round, request.sum_order.session)


def _masked(reply: ClientReply, part: SumReply) -> ClientReply:
    """A reply with nothing but its part in a sum."""
    return ClientReply(reply.client, reply.round, sum_reply=part)


def _digest(request: ClientRequest) -> str:
    """Digest of what a client is asked: the same values are only masked with the same noise."""
    header, arrays = pack_request(replace(request, sum_order=None), "float32")
    digest = hashlib.sha256(header.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"\x1f{name}\x1f{array.shape}\x1f".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_participant(path: Path, participant: Participant) -> None:
    """Write a client's part in a session to a file."""
    secrets = participant.secrets
    arrays: dict[str, NDArray[Any]] = {f"value {k}": v for k, v in participant.values.items()}
    arrays["secrets"] = as_rows([secrets.mask, secrets.encryption, secrets.seed])
    for name, rows in (("roster", participant.roster), ("received", participant.received)):
        arrays[name] = as_rows(list(rows.values())) if rows else np.zeros((0, 1), np.uint8)
        arrays[f"{name} clients"] = np.array(list(rows), np.int64)
    meta = {
        "session": participant.session,
        "layouts": _layouts.dump_json(dict(participant.layouts)).decode(),
        "groups": _groups.dump_json(participant.groups).decode(),
        "confirmed": participant.confirmed,
        "question": participant.question,
        "multiplier": participant.multiplier,
    }
    write_tensors(path, arrays, {"sum": json.dumps(meta)})


def read_participant(path: Path, client: int) -> Participant:
    """What `write_participant` wrote.

    Raises:
        MessageError: there is no file, or it is damaged.
    """
    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            meta = json.loads(file.metadata()["sum"])
        return Participant(
            client,
            meta["session"],
            {k.removeprefix("value "): v for k, v in arrays.items() if k.startswith("value ")},
            _layouts.validate_json(meta["layouts"]),
            Secrets(*(bytes(row) for row in arrays["secrets"])),
            _rows(arrays, "roster"),
            _rows(arrays, "received"),
            _groups.validate_json(meta["groups"]),
            tuple(meta["confirmed"]),
            meta["question"],
            meta["multiplier"],
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        raise MessageError("sum: expected the exchange of keys first") from None


def _rows(arrays: Mapping[str, NDArray[Any]], name: str) -> dict[int, bytes]:
    clients = arrays[f"{name} clients"].tolist()
    return {client: bytes(row) for client, row in zip(clients, arrays[name], strict=True)}
