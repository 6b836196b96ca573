"""Packages import only from those before them; heavy imports stay where they belong."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fedrouter

PACKAGE = Path(fedrouter.__file__).parent

# Lowest first, as `docs/architecture.md` draws them. What stands here imports only from what
# stands before it.
ORDER = [
    "errors",
    "seeding",
    "progress",
    "serialization",
    "types",
    "config",
    "storage",
    "data",
    "routing",
    "privacy",
    "secure_aggregation",
    "protocol",
    "strategies",
    "model",
    "adapters",
    "training",
    "evaluation",
    "client",
    "tracking",
    "server",
    "inference",
    "export",
    "serving",
    "engines",
    "experiment",
    "comparison",
    "report",
    "deploy",
    "cli",
    "__init__",
    "__main__",
]
LAST_WITHOUT_TORCH = "strategies"  # the server's half of every method needs no torch
TORCH = {"torch", "transformers", "peft"}


def modules() -> dict[str, Path]:
    """Every module of the package by its name without "fedrouter."."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


def package(module: str) -> str:
    """What stands for a module in ORDER."""
    return module.partition(".")[0]


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


def test_the_order_names_every_package() -> None:
    assert sorted({package(module) for module in modules()}) == sorted(ORDER)


def test_few_modules_stand_outside_the_packages() -> None:
    assert len([p for p in PACKAGE.glob("*.py") if not p.name.startswith("__")]) <= 8


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module: str) -> None:
    place = ORDER.index(package(module))
    above = [
        name
        for name in own_imports(modules()[module])
        if package(name) != package(module) and ORDER.index(package(name)) > place
    ]
    assert above == [], f"{module} imports from a package above its own"


def test_no_module_imports_itself_by_way_of_others() -> None:
    arrows = {
        module: {name for name in own_imports(path) if name != module}
        for module, path in modules().items()
    }
    TopologicalSorter(arrows).prepare()  # raises CycleError, which names the circle


def test_the_servers_half_needs_no_torch() -> None:
    light = ORDER[: ORDER.index(LAST_WITHOUT_TORCH) + 1]
    for name, path in modules().items():
        if package(name) in light:
            assert not outside_imports(path) & TORCH, f"{name} imports torch"


def test_only_the_flower_engine_imports_flower() -> None:
    users = [name for name, path in modules().items() if "flwr" in outside_imports(path)]
    assert all(name.startswith("engines.flower.") for name in users)


@pytest.mark.parametrize(
    "module",
    ["fedrouter", "fedrouter.config", "fedrouter.storage.run_folder", "fedrouter.strategies"],
)
def test_importing_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert module in ran.stdout.split()
    assert not TORCH & set(ran.stdout.split())
