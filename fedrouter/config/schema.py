"""Every configuration key with its type, range, default and meaning; one class a section.

The descriptions are the documentation: docs/configuration.md is generated from them.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    create_model,
    model_validator,
)

from fedrouter.config.registry import registered, strategy_names
from fedrouter.config.section import Count, Name, Names, Positive, Section, check_known

AUTO: Literal["auto"] = "auto"
TEMPLATES = ("alpaca",)
ScenarioName = Literal["single", "dual", "all", "dirichlet", "column"]


def _template(text: str) -> str:
    if text not in TEMPLATES and text.count("{instruction}") != 1:
        names = ", ".join(repr(name) for name in TEMPLATES)
        raise ValueError(f"should be {names} or a text with exactly one {{instruction}}")
    return text


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ValueError("should be 'auto', 'cpu', 'mps', 'cuda' or 'cuda:N'")
    return name


def _path(path: Path) -> Path:
    if path == Path():
        raise ValueError("should be the path of a file")
    return path


def scenario_names() -> tuple[str, ...]:
    """The values of the key `data.scenario`."""
    return get_args(ScenarioName)


def _scenario(name: str) -> str:
    return check_known(name, "a scenario", scenario_names())


def _strategy(name: str) -> str:
    return check_known(name, "a strategy", strategy_names())


def _strategy_sections(value: Any) -> Any:
    """The sections in `[strategies]`, each by the schema that its strategy registered."""
    if not isinstance(value, Mapping):
        return value  # which pydantic refuses
    schemas: dict[str, Any] = {
        name: (entry.settings, None) for name, entry in registered().items() if name in value
    }
    sections = create_model("StrategySections", __base__=Section, **schemas).model_validate(value)
    return {name: getattr(sections, name) for name in value}


def _cell(name: str) -> str:
    names = (*scenario_names(), *strategy_names())
    return check_known(name, "the name of a scenario or strategy", names)


def _assignment(text: str) -> str:
    if not re.fullmatch(r"[\w.]+\s*=.*", text, re.DOTALL):
        raise ValueError("should be KEY=VALUE, such as training.steps=5")
    return text


# Strict mode would refuse TOML's strings for paths.
FilePath = Annotated[Path, Field(strict=False), AfterValidator(_path)]
Template = Annotated[str, AfterValidator(_template)]
StrategyName = Annotated[str, AfterValidator(_strategy)]


class ModelConfig(Section):
    """The base model and its prompts."""

    name: Name = Field(default="nano", description='"nano" (built in), a folder, or a hub name')
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description='"float32", "bfloat16", "float16"; auto: float32 on a CPU, bfloat16 elsewhere',
    )
    max_length: int = Field(
        default=512,
        ge=32,
        description="tokens of prompt and response together; a longer instruction is cut at its "
        "end, never the template or the response",
    )
    template: Template = Field(
        default="alpaca", description='"alpaca", or a text with exactly one {instruction}'
    )


class AdapterConfig(Section):
    """The LoRA adapters."""

    rank: Count = Field(default=8, description="rank of the low-rank product")
    alpha: Count = Field(default=16, description="the product is scaled by alpha / rank")
    dropout: float = Field(
        default=0.05, ge=0, lt=1, description="on the adapter's input, in training"
    )
    targets: Names | Name | None = Field(
        default=None,
        description="modules to adapt: a list of names, or one pattern, as PEFT's `target_modules`;"
        " unset: PEFT's default for the architecture",
    )


class Columns(Section):
    """The columns that hold a row's parts."""

    instruction: Name = Field(default="instruction", description="column of the instruction")
    response: Name = Field(default="response", description="column of the response")
    task: Name = Field(
        default="task",
        description="column of the true task's name, if there is one; never used to train",
    )


class Source(Section):
    """One of several sources of training data."""

    path: FilePath | None = Field(default=None, description="a file; this or `dataset`")
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
        '1 = "Yes"}; unset: the value itself',
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
        description="JSONL, JSON, CSV or Parquet file of training rows; built-in tasks when "
        "train, dataset and sources are unset",
    )
    test: FilePath | None = Field(
        default=None,
        description="file of test rows, beside train; unset: split off the training rows",
    )
    dataset: Name | None = Field(default=None, description="Hugging Face dataset, instead of train")
    sources: Annotated[tuple[Source, ...], Field(strict=False)] = Field(
        default=(), description="several sources instead of train: a list of tables"
    )
    columns: Columns = Columns()
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


class FederationConfig(Section):
    """Clients and rounds."""

    clients: Count = Field(default=8, description="number of clients")
    rounds: Count = Field(default=25, description="number of rounds")
    fraction: float = Field(
        default=1.0, gt=0, le=1, description="share of the clients asked in a round"
    )
    min_clients: Count = Field(default=1, description="at least so many are asked in a round")
    wait_s: Positive = Field(
        default=300.0,
        description="longest wait for clients to come online, in seconds: for all of them before "
        "the first round, for min_clients later; then a round goes on with those that are there",
    )
    timeout_s: Positive = Field(
        default=3600.0, description="longest wait for a client's reply, in seconds"
    )
    transport: Literal["float32", "float16", "int8"] = Field(
        default="float16",
        description='"float32", "float16" or "int8": dtype in which adapters travel between server '
        "and clients; adapters sent only for comparison always use int8",
    )

    @model_validator(mode="after")
    def _enough_clients(self) -> Self:
        if self.min_clients > self.clients:
            raise ValueError(
                f"federation.min_clients = {self.min_clients} should be at most "
                f"federation.clients = {self.clients}"
            )
        return self


class ClusteringConfig(Section):
    """How many tasks to look for."""

    n_local: Count | Literal["auto"] | None = Field(
        default=None,
        description='local tasks of each client, or "auto": those that it has samples of; unset: '
        'auto, in mode "paper" as many as the task names among its rows, 2 where rows name no task',
    )
    n_global: Count | Literal["auto"] | None = Field(
        default=None,
        description='global tasks, or "auto": groups of prompts become one task where the adapter '
        'of each serves the other as well; unset: auto, in mode "paper" as many as there are task '
        "names, 4 where rows name no task",
    )
    space: Literal["raw", "standardized", "whitened"] | None = Field(
        default=None,
        description="where prompts are compared, for clustering and routing: embeddings as they "
        "are, divided by their deviations, or whitened by the covariance within the tasks; the "
        "latter two take three more exchanges of profiles before the first round; unset: "
        '"whitened", in mode "paper" "raw"',
    )


class TrainingConfig(Section):
    """Local training: AdamW, fresh each round, at a rate that is constant within a round."""

    steps: Count = Field(default=10, description="optimiser steps per local task and round")
    batch_size: Count = Field(default=16, description="rows per step")
    lr: Positive = Field(default=5e-4, description="rate in the first round")
    lr_min: float = Field(
        default=1e-5, ge=0, description="rate in the last round; a cosine in between"
    )
    max_grad_norm: Positive = Field(
        default=1.0, description="each adapter's gradient is clipped to this"
    )

    @model_validator(mode="after")
    def _falling_rate(self) -> Self:
        if self.lr_min > self.lr:
            raise ValueError(
                f"training.lr_min = {self.lr_min} should be at most training.lr = {self.lr}"
            )
        return self


class RouterConfig(Section):
    """Which adapter answers a prompt."""

    scope: Literal["global", "local"] = Field(
        default="global",
        description='"global": among all tasks; "local": among those of the client that is named',
    )
    top_k: Count = Field(
        default=1, description="a mix of so many nearest adapters answers, the closer the more"
    )
    fallback: Literal["nearest", "base", "average", "mix"] | None = Field(
        default=None,
        description="what answers a prompt from outside every known task: "
        '"nearest", the nearest all the same; "base", the base model; "average", the mean of all '
        'adapters; "mix", a mix of the two nearest; unset: "base", in mode "paper" "nearest"',
    )
    threshold: float = Field(
        default=4.0,
        description="a prompt is from outside where its squared distance to the nearest task lies "
        "more than so many standard deviations above that of the clients' own prompts",
    )


class EvaluationConfig(Section):
    """What is measured on the test rows."""

    enabled: bool = Field(default=True, description="whether to evaluate at all")
    every: int = Field(
        default=0, ge=0, description="rounds between evaluations; 0: only at the end"
    )
    samples: Count | None = Field(default=None, description="test rows per task; unset: all")
    max_new_tokens: Count = Field(default=64, description="longest answer, in tokens")


class EngineConfig(Section):
    """Where clients run."""

    name: Literal["inprocess", "flower"] = Field(
        default="inprocess",
        description='"inprocess": all clients in this process, their training fused; "flower": '
        "Flower's simulation, clients in processes of their own",
    )
    fuse: Literal["auto"] | Count = Field(
        default="auto",
        description="adapters trained in one pass; a run stores the number that auto stands for",
    )
    device: Annotated[str, AfterValidator(_device)] = Field(
        default="auto", description='"cpu", "cuda", "cuda:N", "mps"; auto: a GPU where there is one'
    )


class CompareConfig(Section):
    """The grid of `fedrouter compare`: every strategy in every scenario with every seed."""

    strategies: Annotated[
        tuple[StrategyName, ...] | None,
        Field(strict=False, min_length=1),
    ] = Field(
        default=None,
        description="strategies to compare; unset: all. Only `fedrouter compare` reads this "
        "section: its grid takes the place of `strategy`, `data.scenario` and `seed`",
    )
    scenarios: Annotated[
        tuple[Annotated[str, AfterValidator(_scenario)], ...], Field(strict=False, min_length=1)
    ] = Field(default=("single", "dual", "all"), description="the scenarios to compare them in")
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)] = (
        Field(default=(1, 2, 3), description="the seeds to compare them with")
    )
    overrides: Mapping[
        Annotated[str, AfterValidator(_cell)],
        Annotated[tuple[Annotated[str, AfterValidator(_assignment)], ...], Field(strict=False)],
    ] = Field(
        default={},
        description="other settings for the cells of one scenario or strategy: its name and a "
        'list of texts "key=value"; a scenario\'s come first',
    )


class Config(Section):
    """A run's whole configuration."""

    strategy: StrategyName = Field(
        default="fedrouter", description="the federated method, one of those listed below"
    )
    seed: int = Field(default=0, ge=0, description="every random draw of the run derives from it")
    mode: Literal["auto", "paper"] = Field(
        default="auto",
        description='"paper": the paper\'s choices wherever nothing else is set; "auto": what '
        "measured best",
    )
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig = AdapterConfig()
    data: DataConfig = DataConfig()
    federation: FederationConfig = FederationConfig()
    clustering: ClusteringConfig = ClusteringConfig()
    training: TrainingConfig = TrainingConfig()
    strategies: Annotated[
        Mapping[str, SerializeAsAny[Section]], BeforeValidator(_strategy_sections)
    ] = {}
    router: RouterConfig = RouterConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    engine: EngineConfig = EngineConfig()
    compare: CompareConfig = CompareConfig()

    @property
    def strategy_settings(self) -> Section:
        """The section of the strategy in use, `[strategies.NAME]`, with defaults for unset keys."""
        given = self.strategies.get(self.strategy)
        return registered()[self.strategy].settings() if given is None else given
