"""Rows of 16 tasks of `reasoning-gym`, as training and test files for `data.train` and `data.test`.

    python scripts/make_reasoning_rows.py OUT [--train-rows N] [--test-rows N] [--seed S]

Writes OUT/train.jsonl and OUT/test.jsonl with the columns `instruction`, `response` and `task`. The
same package version, seed and numbers give the same bytes, and no instruction occurs twice. Needs
`pip install 'fedrouter[reasoning]'`.

Prompts have at most 100 tokens and answers at most 20 (tokenizer of SmolLM2), and every question of
these tasks has one right answer. The package's checker, `dataset.score_answer(answer, entry)`,
gives 1 to that answer alone; it accepts a few other spellings of it ("+3" for "3", "rome" for
"Rome", "6:05" for "06:05"), which no model produces that was trained on these rows. It gives
partial credit elsewhere. The metric `exact_match` is therefore the checker with partial credit left
out; tests/scripts/test_make_reasoning_rows.py verifies this against the package. Tasks of the
package with several right answers (word ladders, puzzle 24, n queens) are left out, because a
checker as a metric of its own would need the metadata of each question beside its row, and would
run a package that a row names on the machines of the clients.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from fedrouter.errors import MissingExtraError
from fedrouter.seeding import derive_seed
from fedrouter.storage.atomic import write_bytes

# Task -> settings of its data set, chosen for short prompts and questions that small models learn.
TASKS: dict[str, dict[str, Any]] = {
    "calendar_arithmetic": {
        "tasks": ["weekday_offset", "weekday_of_date_from_first_date"],
        "offset_upper_bound": 14,
    },
    "chain_sum": {"max_terms": 3, "max_digits": 2},
    "family_relationships": {"max_family_size": 4},
    "gcd": {"max_value": 100},
    "leg_counting": {"min_animals": 1, "max_animals": 2, "max_instances": 6},
    "letter_counting": {"min_words": 3, "max_words": 6},
    "needle_haystack": {"min_num_statements": 2, "max_num_statements": 5},
    "number_filtering": {"max_numbers": 4, "max_decimals": 0},
    "number_sequence": {"max_terms": 6, "max_complexity": 1, "min_value": 0, "max_value": 20},
    "simple_equations": {"max_terms": 2, "max_value": 20},
    "simple_geometry": {"max_sides": 4},
    "spell_backward": {"max_word_len": 5},
    "syllogism": {"invalid_ratio": 0.5},
    "time_intervals": {"task_types": ["time"]},
    "word_sequence_reversal": {"min_words": 2, "max_words": 4},
    "word_sorting": {"min_words": 2, "max_words": 4, "min_word_length": 3, "max_word_length": 7},
}
ATTEMPTS = 20  # questions drawn for each row that is needed: many are drawn twice

Row = dict[str, str]


def main() -> None:
    """Write the two files."""
    arguments = parse_arguments()
    try:
        train, test = make_rows(arguments.train_rows, arguments.test_rows, arguments.seed)
    except MissingExtraError as error:
        raise SystemExit(str(error)) from None
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("test", test)):
        path = arguments.out / f"{name}.jsonl"
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_bytes(path, text.encode())
        print(f"{path}: {len(rows)} rows of {len(TASKS)} tasks")


def make_rows(train_rows: int, test_rows: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Training rows and test rows, grouped by task; no instruction occurs twice in them.

    Args:
        train_rows: number of training rows of each task.
        test_rows: number of test rows of each task.
        seed: seed of the questions.

    Raises:
        MissingExtraError: `reasoning-gym` is not installed.
        SystemExit: a task has fewer different questions than rows are wanted.
    """
    train: list[Row] = []
    test: list[Row] = []
    for task in TASKS:
        wanted = train_rows + test_rows
        rows = list(islice(distinct_rows(task, seed, ATTEMPTS * wanted), wanted))
        if len(rows) < wanted:
            raise SystemExit(
                f"{task}: expected {wanted} different questions, found {len(rows)}; ask for fewer"
            )
        test += rows[:test_rows]
        train += rows[test_rows:]
    return train, test


def distinct_rows(task: str, seed: int, attempts: int) -> Iterator[Row]:
    """Rows of a task, without repeated instructions, out of `attempts` questions."""
    seen = set()
    for entry in islice(dataset(task, seed, attempts), attempts):
        row = {"instruction": entry["question"].strip(), "response": str(entry["answer"])}
        if row["instruction"] not in seen:
            seen.add(row["instruction"])
            yield {**row, "task": task}


def dataset(task: str, seed: int, size: int) -> Any:
    """The package's data set of a task: `size` entries (question, answer, metadata)."""
    # A question's generator is seeded by the data set's seed plus the question's index.
    dataset_seed = derive_seed(seed, "reasoning rows", task) % 2**31
    return reasoning_gym().create_dataset(task, seed=dataset_seed, size=size, **TASKS[task])


def reasoning_gym() -> ModuleType:
    """The package, imported when it is needed."""
    try:
        import reasoning_gym as package
    except ImportError as error:
        raise MissingExtraError("reasoning rows", "reasoning") from error
    return package


def parse_arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for train.jsonl and test.jsonl")
    parser.add_argument("--train-rows", type=int, default=100, help="of each task; default 100")
    parser.add_argument("--test-rows", type=int, default=60, help="of each task; default 60")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    return parser.parse_args()


if __name__ == "__main__":
    main()
