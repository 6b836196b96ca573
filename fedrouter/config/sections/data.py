"""The section `[data]`."""

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from fedrouter.config.sections.base import Count, Name, Positive, Section

ScenarioName = Literal["single", "dual", "all", "dirichlet", "column"]


def scenario_names() -> tuple[str, ...]:
    """The values of the key `data.scenario`."""
    return get_args(ScenarioName)


def _path(path: Path) -> Path:
    if path == Path():
        raise ValueError("should be the path of a file")
    return path


# Strict mode would refuse TOML's strings for paths.
FilePath = Annotated[Path, Field(strict=False), AfterValidator(_path)]


class Columns(Section):
    """The columns that hold a row's parts; docs/data.md has the formats that need none named."""

    instruction: Name = Field(default="instruction", description="column of the instruction")
    input: Name | None = Field(
        default=None,
        description="column of a text that follows the instruction after a blank line, where it is "
        "not empty; unset: input in rows of the Alpaca format, else none",
    )
    response: Name = Field(default="response", description="column of the response")
    system: Name | None = Field(
        default=None, description="column of a system prompt, where it is not empty; unset: none"
    )
    messages: Name | None = Field(
        default=None,
        description="column of whole conversations, instead of instruction and response; unset: "
        "messages or conversations, in rows of those formats",
    )
    task: Name = Field(
        default="task",
        description="column of the true task's name, if there is one; never used to train",
    )

    @model_validator(mode="after")
    def _messages_or_texts(self) -> Self:
        default = {"instruction": "instruction", "response": "response", "input": None}
        named = [key for key, name in default.items() if getattr(self, key) != name]
        if self.messages is not None and named:
            raise ValueError(
                f"columns.messages = {self.messages!r} takes the place of columns."
                f"{', columns.'.join(named)}; leave out one or the other"
            )
        return self


class Source(Section):
    """One of several sources of training data."""

    path: FilePath | None = Field(
        default=None, description="a file, a folder of files or a pattern; this or `dataset`"
    )
    dataset: Name | None = Field(default=None, description="a hub name; this or `path`")
    subset: Name | None = Field(
        default=None, description="the hub dataset's subset (configuration), such as qqp of glue"
    )
    folder: Name | None = Field(
        default=None, description="the folder of the hub dataset's files, where subsets are folders"
    )
    revision: Name | None = Field(
        default=None,
        description="the hub dataset's branch, tag or commit, such as refs/convert/parquet, where "
        "the hub keeps what a loading script once made",
    )
    own_test: bool = Field(
        default=True,
        description='whether a hub dataset\'s own split "test" is the test set; if not, only its '
        'split "train" is used',
    )
    rows: Count | None = Field(
        default=None,
        description="at most so many of the rows that are to be trained on or split off, drawn at "
        "random; unset: all",
    )
    skip_empty: bool = Field(
        default=False,
        description="leave out rows in which a column that is used is empty, instead of refusing "
        "the source",
    )
    columns: Columns = Columns()
    template: Name | None = Field(
        default=None,
        description="makes the instruction from columns: a text with {column} fields, such as "
        '"Summarise: {dialogue}"; the texts of a list are joined with ", "; unset: the instruction '
        "column as it is",
    )
    labels: dict[str, Name] | None = Field(
        default=None,
        description='the response that each value of its column stands for, such as {0 = "No", '
        '1 = "Yes"} or {true = "Yes", false = "No"}; unset: the value itself',
    )
    task: Name | None = Field(default=None, description="task of all rows; unset: the task column")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("each of data.sources needs either path or dataset")
        of_the_hub = [key for key in ("subset", "folder", "revision") if getattr(self, key)]
        of_the_hub += [] if self.own_test else ["own_test"]
        if self.path is not None and of_the_hub:
            raise ValueError(f"{', '.join(of_the_hub)} of data.sources needs dataset, not path")
        return self


class DataConfig(Section):
    """The rows, their one split into train and test, and how clients share them.

    Relative paths are relative to the current folder, also those in a TOML file.
    """

    train: FilePath | None = Field(
        default=None,
        description="file of training rows (JSON, JSONL, CSV, TSV, Parquet, Arrow), a folder of "
        'such files, or a pattern such as "rows/*.jsonl"; built-in tasks when train, dataset and '
        "sources are unset",
    )
    test: FilePath | None = Field(
        default=None,
        description="the same of test rows, beside train; unset: split off the training rows",
    )
    dataset: Name | None = Field(default=None, description="Hugging Face dataset, instead of train")
    sources: Annotated[tuple[Source, ...], Field(strict=False)] = Field(
        default=(), description="several sources instead of train: a list of tables"
    )
    columns: Columns = Columns()
    turns: Literal["last", "all"] = Field(
        default="last",
        description='of a conversation, "last": its last answer is a sample, with the turns before '
        'it as context; "all": every answer is one',
    )
    test_fraction: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="share of the rows split off for testing where none are given",
    )
    scenario: ScenarioName | None = Field(
        default=None,
        description='a client holds "single", one task; "dual", two; "all", some of everything; '
        '"dirichlet", uneven shares of every task; "column", whole groups of split_column; '
        "unset: dual where rows name their task, else all",
    )
    alpha: Positive = Field(
        default=0.3, description="concentration of scenario dirichlet; smaller: more uneven"
    )
    split_column: Name | None = Field(
        default=None, description="column by which scenario column deals rows to clients"
    )
    builtin_train: Count = Field(default=400, description="training rows of each built-in task")
    builtin_test: Count = Field(default=100, description="test rows of each built-in task")

    @property
    def builtin(self) -> bool:
        """Whether the rows are those of the built-in tasks."""
        return self.train is None and self.dataset is None and not self.sources

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        faults = list(self._faults())
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _faults(self) -> list[str]:
        given = [key for key in ("train", "dataset", "sources") if getattr(self, key)]
        faults = []
        if len(given) > 1:
            faults.append(f"only one of {', '.join(f'data.{key}' for key in given)} may be set")
        if self.test is not None and self.train is None:
            faults.append(f"data.test = '{self.test}' needs data.train")
        if self.columns != Columns() and (self.builtin or self.sources):
            faults.append(
                "data.columns needs data.train or data.dataset (each of data.sources has its own)"
            )
        if self.scenario == "column" and self.split_column is None:
            faults.append("data.scenario = 'column' needs data.split_column")
        if self.split_column is not None and self.scenario != "column":
            faults.append(
                f"data.split_column = {self.split_column!r} needs data.scenario = 'column'"
            )
        return faults
