"""docs/glossary.md has an entry for every public type, and no other entries."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_architecture import ORDER, modules, package

GLOSSARY = Path(__file__).parent.parent / "docs" / "glossary.md"


def public_types(source: str) -> Iterator[str]:
    """Names of a module's public classes and module-level type aliases.

    An alias is an assignment of a type expression to a name in CamelCase. Type variables are none.
    """
    for node in ast.parse(source).body:
        match node:
            case ast.ClassDef(name=name):
                pass
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Subscript() | ast.BinOp()):
                if name.isupper():
                    continue
            case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Name(id="TypeAlias")):
                pass
            case _:
                continue
        if name[0].isupper():
            yield name


def glossary() -> dict[str, list[str]]:
    """The types that the glossary lists, by package, in its order."""
    listed: dict[str, list[str]] = {}
    for line in GLOSSARY.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"## `(\w+)/?`", line):
            types = listed.setdefault(heading[1], [])
        elif entry := re.fullmatch(r"\| `(\w+)` \| (.+) \|", line):
            types.append(entry[1])
    return listed


def of_package(name: str) -> set[str]:
    """The public types of a package."""
    paths = [path for module, path in modules().items() if package(module) == name]
    return {type_ for path in paths for type_ in public_types(path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("name", ORDER)
def test_every_public_type_has_an_entry_and_every_entry_a_type(name: str) -> None:
    types, entries = of_package(name), glossary().get(name, [])
    assert sorted(entries) == sorted(types), f"docs/glossary.md, package {name}"


def test_packages_stand_in_the_order_of_the_architecture() -> None:
    assert list(glossary()) == [name for name in ORDER if of_package(name)]


def test_classes_and_aliases_are_types_and_constants_and_type_variables_are_not() -> None:
    source = """
class Public: ...
class _Private: ...
Alias = dict[str, int]
Either = int | str
Variable = TypeVar("Variable")
CONSTANT = LIMITS["largest"]
_Hidden = list[int]
small = list[int]
"""
    assert list(public_types(source)) == ["Public", "Alias", "Either"]
