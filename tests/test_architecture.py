"""Modules import only from the layers below them; heavy imports stay where they belong."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedrouter

PACKAGE = Path(fedrouter.__file__).parent

# Lowest first. A module imports only from those before it. A package's own __init__ stands last
# among its files; `builtin_tasks.*` stands for all files of that folder.
ORDER = [
    # the ground
    "errors",
    "seeding",
    "rows",
    "config.schema",
    "config.describe",
    "config.faults",
    "config.load",
    "config",
    "config.__main__",
    "history",
    "messages",
    "atomic",
    "files",
    # numpy, scikit-learn
    "builtin_tasks.*",
    "builtin_tasks",
    "clustering",
    "spaces",
    "routing",
    "aggregation",
    "transport",
    "replies",
    "wire",
    "metrics",
    "partition",
    "checkpoints",
    "store",
    "client_folder",
    "progress",
    "columns",
    "datasets",
    # torch
    "prompts",
    "frozen",
    "model",
    "targets",
    "lora",
    "bank",
    "proximal",
    "training",
    "responder",
    "evaluation",
    "resident",
    "serving",
    # federation
    "client",
    "strategies.base",
    "strategies.fedrouter",
    "strategies.merging",
    "strategies.automatic",
    "strategies.oracle",
    "strategies.local",
    "strategies.fedavg",
    "strategies.fedprox",
    "strategies.finetune",
    "strategies.ditto",
    "strategies.feddpa",
    "strategies.fedsa",
    "strategies.ffa",
    "strategies.clustered",
    "strategies.ifca",
    "strategies.centralised",
    "strategies",
    "engines",
    "engines.base",
    "engines.inprocess",
    "rounds",
    "federation",
    "engines.flower_records",
    "engines.flower",
    "engines.flower_client",
    "engines.flower_simulation",
    "summary",
    "server",
    "engines.flower_server",
    "experiment",
    "comparison.statistics",
    "comparison.grid",
    "comparison.results",
    "comparison.tables",
    "comparison.folder",
    "comparison.harness",
    "comparison",
    "report.figures",
    "report.page",
    "report.embedding_map",
    "report.run_report",
    "report.comparison_report",
    "report.writer",
    "report",
    # faces
    "deploy.certificates",
    "deploy.files",
    "deploy",
    "inference",
    "assessment",
    "inspection",
    "console",
    "demo",
    "cli",
    "__init__",
    "__main__",
]
WITHOUT_TORCH = ORDER[: ORDER.index("prompts")]
TORCH = {"torch", "transformers", "peft"}


def modules() -> dict[str, Path]:
    """Every module of the package by its name without "fedrouter."."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


def place(module: str) -> int:
    """A module's place in ORDER; -1 where it has none."""
    folder = module.rpartition(".")[0]
    names = [name for name in (module, f"{folder}.*") if name in ORDER]
    return ORDER.index(names[0]) if names else -1


def imports(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, wherever in the file, for type checks too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> Iterator[str]:
    """Modules of this package that a file imports."""
    known = modules()
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "fedrouter":
            parent = rest.rpartition(".")[0]
            yield next((module for module in (rest, parent) if module in known), "__init__")


def outside_imports(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def test_every_module_has_a_place_and_every_place_a_module() -> None:
    assert [module for module in modules() if place(module) < 0] == []
    used = {ORDER[place(module)] for module in modules()}
    assert [name for name in ORDER if name not in used] == []


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module: str) -> None:
    above = [name for name in own_imports(modules()[module]) if not below(name, module)]
    assert above == [], f"{module} imports from its own layer or one above it"


def below(lower: str, upper: str) -> bool:
    """Whether `upper` may import `lower`; files that one entry stands for may import each other."""
    return place(lower) < place(upper) or (place(lower) == place(upper) and lower != upper)


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_lower_layers_need_no_torch(module: str) -> None:
    for name, path in modules().items():
        if ORDER[place(name)] == module:
            assert not outside_imports(path) & TORCH


def test_only_the_flower_engine_imports_flower() -> None:
    users = [name for name, path in modules().items() if "flwr" in outside_imports(path)]
    assert all(name.startswith("engines.flower") for name in users)


@pytest.mark.parametrize("module", ["fedrouter", "fedrouter.config", "fedrouter.store"])
def test_importing_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert module in ran.stdout.split()
    assert not TORCH & set(ran.stdout.split())
