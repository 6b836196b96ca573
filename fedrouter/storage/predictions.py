"""`predictions.jsonl`: the answers to the test rows of a run on one machine, one a line.

Clients that are processes of this machine store their answers, and the server collects them at the
end of the run. In a deployed federation no client does, since the rows are not the server's; a node
writes none either. Until then thousands of clients may have given the same answers, which are
stored once::

    clients/answers/DIGEST.jsonl    the answers, by the SHA-256 of the file
    clients/client-003/answers      the digest of those that this client gave
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import takewhile
from pathlib import Path

from typing_extensions import TypedDict

from fedrouter.errors import RunError
from fedrouter.storage.atomic import write_bytes, write_chunks
from fedrouter.storage.formats import parse_as
from fedrouter.storage.run_folder import PRIVATE

PREDICTIONS = "predictions.jsonl"
ANSWERS = "answers"
LARGEST = 200 * 2**20  # bytes of the file: `inspection` refuses larger ones
LONGEST = 16 * 2**20  # bytes of a line


class Prediction(TypedDict):
    """An answer to a test row.

    Attributes:
        prompt: the instruction, as it is embedded and routed.
        context: the conversation up to the response, as [role, text]; empty for a single turn.
        expected: the row's response.
        answer: the generated text.
        true_task: the row's task; None if it names none.
        task: the global task that the prompt was routed to; None in a method without a router.
        confidence: the probability of that task; None if the method takes no distances.
        adapters: the adapters that answered, with their weights: empty for the base model alone;
            None in a method without a router.
        scores: rouge1, rouge2, rougeL and exact_match as fractions of 1, loss in nats per token.
    """

    prompt: str
    context: list[list[str]]
    expected: str
    answer: str
    true_task: str | None
    task: str | None
    confidence: float | None
    adapters: dict[str, float] | None
    scores: dict[str, float]


class CollectedPrediction(Prediction):
    """A line of `predictions.jsonl`: an answer, and the clients that gave it.

    Clients that give the same answers to all rows, as those do that have the same adapters, share
    their lines; others have lines of their own.
    """

    clients: list[int]


def encode(predictions: Iterable[Prediction]) -> Iterator[bytes]:
    """Each prediction as a line of JSON."""
    for one in predictions:
        yield f"{json.dumps(one, ensure_ascii=False)}\n".encode(errors="replace")


def keep(client: Path, predictions: Iterable[Prediction]) -> None:
    """Store a client's answers until they are collected.

    Args:
        client: the client's folder, in that of all clients; it exists.
        predictions: its answers to the test rows.
    """
    folder, lines = client.parent / ANSWERS, b"".join(encode(predictions))
    folder.mkdir(PRIVATE, exist_ok=True)
    digest = sha256(lines).hexdigest()
    file = folder / f"{digest}.jsonl"
    if not file.exists():
        write_bytes(file, lines)
    # Not flushed to the disk, which takes 10 ms for each client: a run that is resumed in its
    # evaluation repeats it.
    (client / ANSWERS).write_text(digest)


def collect(run: Path) -> int:
    """Make `predictions.jsonl` in a run folder of what its clients have stored, and remove that.

    Returns:
        The number of answers that are left out, as the file would be larger than LARGEST.
    """
    stored = {file.stem: file for file in (run / "clients" / ANSWERS).glob("*.jsonl")}
    owners = sorted((run / "clients").glob(f"client-*/{ANSWERS}"))
    same: dict[Path, list[int]] = {}
    for owner in owners:
        if file := stored.get(owner.read_text()):
            same.setdefault(file, []).append(int(owner.parent.name.removeprefix("client-")))
    if not same:
        return 0
    size, lines = 0, _merged(same)

    def fits(line: bytes) -> bool:
        nonlocal size
        size += len(line)
        return size <= LARGEST

    write_chunks(run / PREDICTIONS, takewhile(fits, lines))
    left_out = sum(1 for _ in lines) + (size > LARGEST)
    for owner in owners:
        owner.unlink()
    shutil.rmtree(run / "clients" / ANSWERS)
    return left_out


def read_predictions(run: Path) -> Iterator[CollectedPrediction]:
    """The lines of `predictions.jsonl`; none if the run has no such file.

    Raises:
        RunError: a line is no prediction.
    """
    path = run / PREDICTIONS
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST), b""), start=1):
            try:
                yield parse_as(CollectedPrediction, line)
            except ValueError as error:
                raise RunError(
                    f"{path}, line {number}: no prediction ({error}); delete the file"
                ) from None


def _merged(same: Mapping[Path, list[int]]) -> Iterator[bytes]:
    """The lines of all files, each with the clients that gave these answers."""
    for file, clients in same.items():
        with file.open("rb") as opened:
            for line in opened:
                one: Prediction = json.loads(line)
                yield from encode([CollectedPrediction(**one, clients=clients)])
