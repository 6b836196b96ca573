"""The results of a comparison as tables, notes and a Markdown page."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOTHING = "-"  # a value that was not measured
SCOPES = {"local": "the clients' own tasks (local)", "global": "all tasks (global)"}
SCORES = {"rouge1": "ROUGE-1", "rougeL": "ROUGE-L", "exact_match": "exact match", "loss": "loss"}
PAIRS = {  # the columns of tables with both scopes
    (scope, name): f"{SCORES[name]}, {scope}" for scope in SCOPES for name in ("rouge1", "loss")
}
HOW_TO_READ = (
    "Mean ± standard deviation over seeds. The column difference is the strategy's ROUGE-1 minus "
    "FedRouter's (negative: FedRouter is better), paired by seed, with a 95 % confidence interval. "
    "Differences over tasks are paired by task, each task a mean over seeds: in ROUGE-1 (negative: "
    "FedRouter is better) and in loss (positive: FedRouter is better). Strategies are sorted by "
    "ROUGE-1, at equal bytes by loss. References use information that a federation does not have; "
    "they are not ranked."
)

Row = tuple[str, ...]
Entry = Mapping[str, Any]  # one of the results' `summary`


@dataclass(frozen=True)
class Table:
    """A table whose cells are texts.

    Attributes:
        title: the heading above the table.
        columns: the column headings.
        rows: the rows of the strategies that are compared.
        below: the rows of the references, shown below a rule.
    """

    title: str
    columns: Row
    rows: tuple[Row, ...]
    below: tuple[Row, ...]


def tables(results: Mapping[str, Any]) -> list[Table]:
    """The tables of each scenario: scores on the clients' own tasks, on all tasks, differences over
    tasks, costs and, if runs were evaluated during training, scores at equal bytes."""
    shown = []
    for scenario in dict.fromkeys(entry["scenario"] for entry in results["summary"]):
        entries = [entry for entry in results["summary"] if entry["scenario"] == scenario]
        kinds = {entry["strategy"]: entry["kind"] for entry in entries}
        for scope, name in SCOPES.items():
            shown.append(_scores(f"{scenario}: scores on {name}", entries, scope, kinds))
        shown += [_over_tasks(found, kinds) for found in _of(results, "over_tasks", scenario)]
        shown.append(_usage(f"{scenario}: costs", entries, kinds))
        shown += [_equal_bytes(found, kinds) for found in _of(results, "equal_bytes", scenario)]
    return shown


def _of(results: Mapping[str, Any], key: str, scenario: str) -> list[Mapping[str, Any]]:
    """The entries of a scenario under a key, which older files lack."""
    return [found for found in results.get(key, ()) if found["scenario"] == scenario]


def notes(results: Mapping[str, Any]) -> list[str]:
    """The derived figures, the warnings and the failures, one line each."""
    derived = results["derived"]
    return [
        *_gain("interference", derived["interference"], "strategy"),
        *_gain("generalization", derived["generalization"], "personalized strategy"),
        *_oracle_gap(derived["oracle_gap"]),
        *(f"warning: {text}" for text in results["warnings"]),
        *(
            f"failed: {cell['strategy']}, {cell['scenario']}, seed {cell['seed']}: {cell['reason']}"
            for cell in results["failures"]
        ),
    ]


def markdown(results: Mapping[str, Any]) -> str:
    """The page results.md."""
    parts = ["# Comparison", HOW_TO_READ]
    if found := notes(results):
        parts.append("\n".join(f"- {_escaped(note)}" for note in found))
    for table in tables(results):
        parts += [f"## {table.title}", "\n".join(_markdown_table(table))]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> Iterator[str]:
    yield _line(table.columns)
    yield _line(["---", *["---:"] * (len(table.columns) - 1)])
    yield from map(_line, table.rows)
    if table.below:  # Markdown has no rule inside a table
        yield _line(["*references*", *[""] * (len(table.columns) - 1)])
        yield from map(_line, table.below)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _scores(title: str, entries: Sequence[Entry], scope: str, kinds: Mapping[str, str]) -> Table:
    def row(entry: Entry) -> Row:
        scores = entry[scope] or {}
        return (
            entry["strategy"],
            *(_spread(scores.get(name), ".3f") for name in SCORES),
            _difference((entry["vs_fedrouter"] or {}).get(scope)),
            str(entry["seeds"]),
        )

    def rank(entry: Entry) -> float:
        return -entry[scope]["rouge1"]["mean"] if entry[scope] else 0.0

    columns = ("strategy", *SCORES.values(), "difference", "seeds")
    return _table(title, columns, map(row, sorted(entries, key=rank)), kinds)


def _over_tasks(found: Mapping[str, Any], kinds: Mapping[str, str]) -> Table:
    """The differences to FedRouter, paired by task, in the order of the strategies."""

    def row(entry: Entry) -> Row:
        tasks = entry["local"]["loss"] or entry["global"]["loss"]
        return (
            entry["strategy"],
            *(_difference(entry[scope][name]) for scope, name in PAIRS),
            str(tasks["n"]) if tasks else NOTHING,
            str(entry["seeds"]),
        )

    title = f"{found['scenario']}: differences to FedRouter over tasks"
    columns = ("strategy", *PAIRS.values(), "tasks", "seeds")
    return _table(title, columns, map(row, found["strategies"]), kinds)


def _usage(title: str, entries: Sequence[Entry], kinds: Mapping[str, str]) -> Table:
    """The costs; those of simulated time only if there is some."""
    simulated = any(entry.get("simulated_s") for entry in entries)

    def row(entry: Entry) -> Row:
        return (
            entry["strategy"],
            _spread(entry["bytes_up"], ".2f", unit=1e6),
            _spread(entry["bytes_down"], ".2f", unit=1e6),
            _spread(entry["seconds"], ",.1f"),
            *([_spread(entry.get("simulated_s"), ",.1f")] if simulated else []),
            _spread(entry["tokens"], ",.0f"),
            str(entry["seeds"]),
        )

    time = ("seconds", "simulated s") if simulated else ("seconds",)
    columns = ("strategy", "MB up", "MB down", *time, "trained tokens", "seeds")
    return _table(title, columns, map(row, entries), kinds)


def _equal_bytes(found: Mapping[str, Any], kinds: Mapping[str, str]) -> Table:
    """The scores of a scenario's strategies at equal bytes, by the loss on all tasks."""

    def row(entry: Entry) -> Row:
        scores = [_spread((entry[scope] or {}).get(name), ".3f") for scope, name in PAIRS]
        sent = _spread(entry["round"], ".1f"), _spread(entry["bytes"], ".2f", unit=1e6)
        return (entry["strategy"], *scores, *sent, str(entry["seeds"]))

    def rank(entry: Entry) -> float:
        scores = entry["global"] or entry["local"]
        return float(scores["loss"]["mean"]) if scores else 0.0

    title = f"{found['scenario']}: scores at equal bytes, up to {found['bytes'] / 1e6:.2f} MB"
    columns = ("strategy", *PAIRS.values(), "rounds", "MB", "seeds")
    return _table(title, columns, map(row, sorted(found["strategies"], key=rank)), kinds)


def _table(title: str, columns: Row, rows: Iterable[Row], kinds: Mapping[str, str]) -> Table:
    """A table of rows that begin with a strategy, the references below the others."""
    ranked: list[Row] = []
    below: list[Row] = []
    for row in rows:
        (below if kinds[row[0]] == "reference" else ranked).append(row)
    return Table(title, columns, tuple(ranked), tuple(below))


def _spread(found: Mapping[str, float | None] | None, form: str, unit: float = 1.0) -> str:
    """Mean and standard deviation, such as 0.512 ± 0.010."""
    if found is None or found["mean"] is None:
        return NOTHING
    mean, sd = found["mean"], found["sd"]
    return f"{mean / unit:{form}}" + ("" if sd is None else f" ± {sd / unit:{form}}")


def _difference(found: Mapping[str, float | None] | None) -> str:
    """A difference and its interval, such as -0.031 [-0.050, -0.012]."""
    if found is None:
        return NOTHING
    mean, low, high = found["mean"], found["low"], found["high"]
    return f"{mean:+.3f}" + ("" if low is None else f" [{low:+.3f}, {high:+.3f}]")


def _gain(name: str, found: Mapping[str, Any], rival: str) -> list[str]:
    if found["value"] is None:
        return []
    return [
        f"{name} ({found['scenario']}, {found['scope']}): FedRouter {found['value']:+z.1f} % "
        f"ROUGE-1 against the best other {rival}, {found['against']} ({_seeds(found['seeds'])})"
    ]


def _oracle_gap(found: Mapping[str, Any]) -> list[str]:
    if found["value"] is None:
        return []
    each = ", ".join(
        f"{gap['scenario']} {gap['scope']} {gap['value']:z.1f} %" for gap in found["all"]
    )
    return [f"gap to the oracle: at most {found['value']:z.1f} % ROUGE-1 ({each})"]


def _seeds(number: int) -> str:
    return "one seed" if number == 1 else f"{number} seeds"
