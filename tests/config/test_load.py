from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.places import ROOT

from fedrouter.config import (
    AdapterConfig,
    ClusteringConfig,
    Columns,
    Config,
    DataConfig,
    EngineConfig,
    ModelConfig,
    Source,
    TrainingConfig,
    dump_config,
    load_config,
    load_resolved,
)
from fedrouter.config.reference import describe, page
from fedrouter.config.synonyms import SYNONYMS
from fedrouter.errors import ConfigError


def fault(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_are_the_papers() -> None:
    config = load_config()
    assert config == Config()
    assert (config.strategy, config.seed, config.mode) == ("fedrouter", 0, "auto")
    assert (config.adapter.rank, config.adapter.alpha, config.adapter.dropout) == (8, 16, 0.05)
    training = config.training
    assert (training.steps, training.batch_size) == (10, 16)
    assert (training.lr, training.lr_min, training.max_grad_norm) == (5e-4, 1e-5, 1.0)
    assert (config.federation.clients, config.federation.rounds) == (8, 25)


def test_overrides_are_toml_or_else_text_and_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("seed = 3\n[training]\nsteps = 4\nlr = 1\n[data]\ntrain = 'a.csv'\n")
    config = load_config(
        path,
        [
            "training.steps=5",
            "strategy=fedavg",
            "data.train=../x.jsonl",
            "data.columns={instruction='question'}",
            "data.columns.response=answer",
            "adapter.targets=['q_proj', 'v_proj']",
            "model.name = ./m",
            'model.template="Q: {instruction}\\nA:"',
        ],
    )
    assert (config.seed, config.training.steps, config.training.lr) == (3, 5, 1.0)
    assert config.strategy == "fedavg"
    assert config.data.train == Path("../x.jsonl")
    assert config.data.columns == Columns(instruction="question", response="answer")
    assert config.adapter.targets == ("q_proj", "v_proj")
    assert config.model.name == "./m"
    assert config.model.template == "Q: {instruction}\nA:"


def test_an_override_cannot_smuggle_in_other_keys() -> None:
    assert load_config(None, ["model.name=1\nseed = 5"]).seed == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.stepz=3", "unknown key training.stepz; did you mean training.steps?"),
        ("rounds=3", "unknown key rounds; did you mean federation.rounds?"),
        ("alpha=1", "unknown key alpha; did you mean adapter.alpha or data.alpha?"),
        ("modl.name=nano", "unknown key modl; did you mean model?"),
        ("qqqqqq=1", "unknown key qqqqqq"),
        (
            "training.learning_rate=1e-3",
            "unknown key training.learning_rate; did you mean training.lr?",
        ),
        ("learning_rate=1e-3", "unknown key learning_rate; did you mean training.lr?"),
        (
            "training.epochs=1",
            "unknown key training.epochs; did you mean training.steps or federation.rounds?",
        ),
        (
            "adapter.target_modules=q",
            "unknown key adapter.target_modules; did you mean adapter.targets?",
        ),
        ("model.path=m", "unknown key model.path; did you mean model.name?"),
        (
            "strategies.ditto.lambda=1",
            "unknown key strategies.ditto.lambda; did you mean strategies.ditto.proximal_weight?",
        ),
        (
            "strategy=centralised",
            "strategy = 'centralised' should be a strategy; did you mean 'centralized'?",
        ),
        (
            "clustering.space=standardised",
            "clustering.space = 'standardised' should be 'raw', 'standardized' or 'whitened'; "
            "did you mean 'standardized'?",
        ),
        (
            "data.sources=[{path='x', datset='y'}]",
            "unknown key data.sources[0].datset; did you mean data.sources.dataset?",
        ),
        ("training.steps=0", "training.steps = 0 should be at least 1"),
        ("training.steps=true", "training.steps = True should be a whole number"),
        ("training.steps=2.0", "training.steps = 2.0 should be a whole number"),
        ("training.lr=nan", "training.lr = nan should be a finite number"),
        ("training.lr=fast", "training.lr = 'fast' should be a number"),
        ("evaluation.enabled=1", "evaluation.enabled = 1 should be true or false"),
        ("federation.fraction=1.5", "federation.fraction = 1.5 should be at most 1"),
        (
            "federation.transport=fp8",
            "federation.transport = 'fp8' should be 'float32', 'float16', 'int8' or 'int4'",
        ),
        ("engine.fuse=0", "engine.fuse = 0 should be 'auto' or at least 1"),
        (
            "engine.device=gpu",
            "engine.device = 'gpu' should be 'auto', 'cpu', 'mps', 'cuda' or 'cuda:N'",
        ),
        (
            "model.template=hi",
            "model.template = 'hi' should be 'auto', 'chat', 'alpaca' or a text with exactly one "
            "{instruction}",
        ),
        ("adapter.targets=[1]", "adapter.targets[0] = 1 should be a text"),
        ("model=x", "model = 'x' should be a section of keys"),
        ("data.train=", "data.train = '' should be the path of a file"),
        ("data.test=x", "data.test = 'x' needs data.train"),
        ("data.scenario=column", "data.scenario = 'column' needs data.split_column"),
        ("data.split_column=c", "data.split_column = 'c' needs data.scenario = 'column'"),
        ("data.sources=[{}]", "each of data.sources needs either path or dataset"),
        ("training.lr_min=1", "training.lr_min = 1.0 should be at most training.lr = 0.0005"),
        (
            "federation.min_clients=9",
            "federation.min_clients = 9 should be at most federation.clients = 8",
        ),
        ("seed", "--set 'seed' should be KEY=VALUE, such as training.steps=5"),
        ("training.=3", "--set 'training.=3' should be KEY=VALUE, such as training.steps=5"),
    ],
)
def test_a_fault_names_key_value_and_remedy(override: str, message: str) -> None:
    assert fault(override) == message


def test_columns_that_nothing_would_read_are_refused() -> None:
    assert "data.columns needs data.train" in fault("data.columns.task=label")
    assert (
        "columns.messages = 'chat' takes the place of columns.response, columns.input; "
        "leave out one or the other"
    ) in fault("data.columns={messages='chat', response='a', input='b'}", "data.train=a.jsonl")


def test_all_faults_are_reported_at_once() -> None:
    message = fault(
        "training.stepz=3",
        "adapter.rank=0",
        "bad",
        "data.train=a.jsonl",
        "data.dataset=b",
        "data.scenario=column",
    )
    assert message.split("; ") == [
        "--set 'bad' should be KEY=VALUE, such as training.steps=5",
        "unknown key training.stepz",
        "did you mean training.steps?",
        "adapter.rank = 0 should be at least 1",
        "only one of data.train, data.dataset may be set",
        "data.scenario = 'column' needs data.split_column",
    ]


def test_an_override_below_a_plain_value_is_refused() -> None:
    message = fault("model.name=nano", "model.name.x=1")
    assert message == "--set 'model.name.x=1' sets a key inside model.name, which is not a section"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed = \n", r"c\.toml is not valid TOML: .*line 1"),
        (b"name = '\xff'", r"c\.toml is not valid TOML: it is not UTF-8 text"),
        (None, r"c\.toml cannot be read: No such file or directory"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "c.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().training.steps = 3  # type: ignore[misc]


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
counts = st.integers(1, 2**40)
rates = st.floats(1e-12, 1e3)
configs = st.builds(
    Config,
    seed=st.integers(0, 2**63 - 1),
    model=st.builds(
        ModelConfig, name=names, template=names.map(lambda text: f"{text}{{instruction}}\n\t'\"")
    ),
    adapter=st.builds(
        AdapterConfig, targets=st.none() | names | st.lists(names, min_size=1).map(tuple)
    ),
    data=st.one_of(
        st.builds(DataConfig, alpha=rates),
        st.builds(
            DataConfig,
            sources=st.lists(
                st.builds(Source, dataset=names, columns=st.builds(Columns, task=names)), min_size=1
            ).map(tuple),
            scenario=st.just("column"),
            split_column=names,
        ),
        st.just(DataConfig(train=Path("a b.jsonl"), test=Path("/x/ü.csv"), scenario="single")),
    ),
    clustering=st.builds(ClusteringConfig, n_local=st.none() | counts, n_global=counts),
    training=rates.map(lambda rate: TrainingConfig(lr=rate, lr_min=rate / 3)),
    engine=st.builds(EngineConfig, fuse=st.just("auto") | counts),
)


@given(config=configs)
@settings(max_examples=50)
def test_dump_and_load_give_the_same_back(
    tmp_path_factory: pytest.TempPathFactory, config: Config
) -> None:
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_text(dump_config(config), encoding="utf-8", newline="")
    assert load_config(path) == config


def test_every_key_is_described() -> None:
    keys = describe()
    assert [key.name for key in keys if not key.description] == []
    assert len({key.name for key in keys}) == len(keys)
    assert ("training.steps", 10) in [(key.name, key.default) for key in keys]


def test_suggested_keys_exist() -> None:
    known = {key.name for key in describe()} | set(Config.model_fields)
    assert {name for names in SYNONYMS.values() for name in names} <= known


def test_the_documentation_is_up_to_date() -> None:
    documented = ROOT / "docs" / "configuration.md"
    assert documented.read_text(encoding="utf-8") == page(), (
        "run: python -m fedrouter.config > docs/configuration.md"
    )


def test_the_configuration_of_an_older_run_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    older = '[baselines]\nclusters = 3\n[federation]\ntransport = "fp16"\n'
    (tmp_path / "config.toml").write_text(older)
    with pytest.raises(ConfigError, match=r"config\.toml does not fit this version") as caught:
        load_resolved(tmp_path / "config.toml")
    assert "\n" not in str(caught.value)
    assert "baselines" in str(caught.value)
    assert "start a new run" in str(caught.value)
