"""Strategies that are registered from outside the package."""

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.places import ROOT
from support.toys import toy_settings

from fedrouter.config import (
    Config,
    Section,
    dump_config,
    load_config,
    register_strategy,
    registered,
    registry,
    strategy_names,
)
from fedrouter.config.reference import describe, page
from fedrouter.errors import ConfigError
from fedrouter.experiment import run
from fedrouter.strategies import Strategy, strategy_class

PAGE = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
MODULE, USE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
[TABLE] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
ENTRY_POINTS = tomllib.loads(TABLE)["project"]["entry-points"]["fedrouter.strategies"]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path with the page's example; what it registers is forgotten."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "fedopt.py").write_text(MODULE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(registry, "_entries", dict(registered()))
    monkeypatch.delitem(sys.modules, "fedopt", raising=False)
    return folder


@pytest.fixture
def fedopt(outside: Path) -> None:
    import_module("fedopt")


@pytest.fixture
def installed(outside: Path) -> Path:
    """The same as an installed package's folder."""
    info = outside / "fedopt-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fedopt\nVersion: 1.0\n")
    points = [f"{name} = {module}\n" for name, module in ENTRY_POINTS.items()]
    (info / "entry_points.txt").write_text("".join(["[fedrouter.strategies]\n", *points]))
    return outside


def adapter(folder: Path) -> dict[str, np.ndarray]:
    [path] = folder.glob("tasks/*/*.safetensors")
    return load_file(path)


def test_an_imported_strategy_runs_with_its_own_section(
    fedopt: None, tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    sets = [*toy_settings(tiny_folder, toy_data), "federation.rounds=1", "evaluation.enabled=false"]
    summary = run(
        load_config(None, [*sets, "strategy=fedopt", "strategies.fedopt.server_lr=0.5"]),
        tmp_path / "half",
    )
    assert (summary["strategy"], summary["rounds"]) == ("fedopt", 1)
    run(load_config(None, [*sets, "strategy=fedavg"]), tmp_path / "whole")
    half, whole = adapter(tmp_path / "half"), adapter(tmp_path / "whole")
    assert half.keys() == whole.keys()
    for name in (name for name in half if "lora_B" in name):  # B starts at zero
        assert whole[name].any()
        np.testing.assert_allclose(half[name], whole[name] / 2, rtol=1e-6)


def test_a_strategy_is_listed_and_documented(fedopt: None) -> None:
    assert strategy_names()[-1] == "fedopt"
    assert issubclass(strategy_class("fedopt"), Strategy)
    keys = {key.name: (key.default, key.description) for key in describe()}
    assert keys["strategies.fedopt.server_lr"] == (1.0, "learning rate of the server")
    assert "### `fedopt`\n\nFedOpt with SGD (Reddi et al., 2021): FedAvg with a" in page()
    assert "| `strategies.fedopt.server_lr` | `1.0` | learning rate of the server |" in page()


def test_its_section_is_stored_with_the_configuration(fedopt: None, tmp_path: Path) -> None:
    config = load_config(None, ["strategies.fedopt.server_lr=0.25"])
    (tmp_path / "c.toml").write_text(dump_config(config))
    assert load_config(tmp_path / "c.toml") == config
    assert "[strategies.fedopt]\nserver_lr = 0.25" in dump_config(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "strategies.fedopt.server_rl=1",
            "unknown key strategies.fedopt.server_rl; did you mean strategies.fedopt.server_lr?",
        ),
        (
            "strategies.fedopt.server_lr=0",
            "strategies.fedopt.server_lr = 0 should be greater than 0",
        ),
        ("strategy=fedop", "strategy = 'fedop' should be a strategy; did you mean 'fedopt'?"),
        (
            "strategies.fedop.server_lr=1",
            "unknown section strategies.fedop: it should be named after a strategy; "
            "did you mean 'fedopt'?",
        ),
        ("strategies.fedopt=1", "strategies.fedopt = 1 should be a section of keys"),
    ],
)
def test_a_fault_in_its_section_is_explained(fedopt: None, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert str(caught.value) == message


@pytest.mark.slow
def test_an_installed_strategy_is_known_to_the_command(
    installed: Path, tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    sets = [*toy_settings(tiny_folder, toy_data), "federation.rounds=1", "evaluation.enabled=false"]
    sets += ["strategy=fedopt", "strategies.fedopt.server_lr=0.5"]
    command = ["run", "-o", "made", *(part for text in sets for part in ("--set", text))]
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); from fedrouter.cli.app import main"
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}; main()", *command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "[strategies.fedopt]\nserver_lr = 0.5" in (tmp_path / "made/config.toml").read_text()
    assert adapter(tmp_path / "made")


def test_an_installed_strategy_that_cannot_be_imported_is_named(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (installed / "fedopt.py").write_text("import a_module_that_is_missing\n")
    registry.load.cache_clear()
    message = r"'fedopt' \(fedopt\) cannot be imported: .*a_module_that_is_missing.*uninstall"
    with pytest.raises(ConfigError, match=message):
        load_config(None, ["strategy=fedopt"])


def test_a_configuration_imports_nothing(outside: Path) -> None:
    with pytest.raises(ConfigError, match="should be one of fedrouter, local"):
        load_config(None, ["strategy=zzz.fedopt:FedOpt"])
    assert "fedopt" not in sys.modules


def test_a_name_belongs_to_one_class(fedopt: None) -> None:
    with pytest.raises(ConfigError, match=r"'fedavg' is registered by both .*FedAvg and .*Other"):

        @register_strategy("fedavg")
        class Other(Strategy):
            pass


def test_what_is_registered_has_to_be_well_formed() -> None:
    with pytest.raises(ValueError, match="'My_Strategy' should be lower-case words"):
        register_strategy("My_Strategy")

    class Required(Section):
        needed: int

    with pytest.raises(ValueError, match="the keys needed need defaults"):
        register_strategy("mine", settings=Required)


def test_the_pages_program_loads(fedopt: None) -> None:
    compile(USE, "strategies.md", "exec")
    sets = re.findall(r'"(\S+=\S+)"', USE)
    assert type(load_config(None, sets)) is Config
