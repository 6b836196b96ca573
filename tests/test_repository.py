"""Workflows, templates, metadata, pins and the pages of the site agree with the code."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from support.places import ROOT

import fedrouter
from fedrouter.cli import reference
from fedrouter.config.sections.tracking import TrackerName
from fedrouter.protocol.messages import ClientReply, ClientRequest
from fedrouter.routing import router
from fedrouter.storage import checkpoints
from fedrouter.storage.formats import MetricsRecord, SummaryFile

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
YAML = sorted([*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"])
FORMS = [p for p in YAML if p.parent.name == "ISSUE_TEMPLATE" and p.name != "config.yml"]


def read(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def pins() -> dict[str, str]:
    """Package -> version, in constraints.txt."""
    lines = [line.split("==") for line in read("constraints.txt").splitlines() if "==" in line]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in lines}


@pytest.mark.parametrize("path", [*YAML, ROOT / "CITATION.cff"], ids=lambda path: path.name)
def test_yaml_is_valid(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    commands = [step["run"] for step in steps(path) if "run" in step]
    assert commands
    for command in commands:
        name, *arguments = command.split()
        assert (name == ".ci/run" and not arguments) or (
            name == "make" and set(arguments) <= targets
        ), command
    for step in steps(path):
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/x@v1")), step


def test_the_workflow_has_every_supported_python_on_both_systems() -> None:
    matrix = yaml.safe_load(read(".github", "workflows", "ci.yml"))["jobs"]["test"]["strategy"]
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert matrix["matrix"]["python"] == versions
    assert {name.partition("-")[0] for name in matrix["matrix"]["os"]} == {"ubuntu", "macos"}
    assert PROJECT["requires-python"] == f">={versions[0]}"


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_have_what_the_forge_requires(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(form)
    for field in form["body"]:
        assert field["type"] in {"markdown", "textarea", "input", "dropdown", "checkboxes"}
        assert re.fullmatch(r"[\w-]+", field["id"])
        assert field["attributes"]["label"]


def test_the_version_is_in_one_place() -> None:
    assert "version" not in PROJECT
    assert "version" in PROJECT["dynamic"]
    assert f"## [{fedrouter.__version__}]" in read("CHANGELOG.md")
    assert yaml.safe_load(read("CITATION.cff"))["version"] == fedrouter.__version__


def test_all_is_every_extra_of_the_package() -> None:
    trackers = set(get_args(TrackerName))  # one of them is enough
    extras = set(PROJECT["optional-dependencies"]) - {"all", "dev", "reasoning"} - trackers
    [everything] = PROJECT["optional-dependencies"]["all"]
    assert set(re.fullmatch(r"fedrouter\[(.*)\]", everything)[1].split(",")) == extras
    table = set(re.findall(r"^\| `(\w+)` \|", read("docs", "install.md"), re.MULTILINE))
    assert table == {*extras, *trackers, "all"}


def test_each_package_is_pinned_once() -> None:
    lines = [line for line in read("constraints.txt").splitlines() if not line.startswith("#")]
    names = [re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines]
    assert len(names) == len(set(names))


def test_the_lock_has_the_pinned_versions_with_hashes() -> None:
    entries = re.findall(
        r"^([\w.-]+)==(\S+)([^\n]*(?:\n    [^\n]*)*)", read("requirements.lock"), re.M
    )
    pinned = pins()
    for name, version, rest in entries:
        assert pinned.get(name, version) == version, f"{name}: run `make lock`"
        assert "--hash=sha256:" in rest, name
    required = {re.match(r"[\w-]+", text)[0] for text in PROJECT["dependencies"]} - {"torch"}
    assert required <= {name for name, _, _ in entries}


def test_every_page_is_on_the_site() -> None:
    site = tomllib.loads(read("zensical.toml"))["project"]
    named = re.findall(r"[\w-]+\.md", str(site["nav"]))
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_page_of_commands_is_generated() -> None:
    assert read("docs", "commands.md") == reference.page(), (
        "run: python -m fedrouter.cli.reference > docs/commands.md"
    )


def test_the_page_of_the_api_has_every_public_name() -> None:
    named = re.findall(r"^::: fedrouter\.(\w+)$", read("docs", "api.md"), re.MULTILINE)
    assert sorted(named) == sorted(fedrouter.__all__)


def test_the_page_of_messages_has_every_field() -> None:
    page = read("docs", "messages.md")
    for kind in (ClientRequest, ClientReply):
        section = page.partition(f"## `{kind.__name__}`")[2].partition("\n## ")[0]
        for field in fields(kind):
            assert re.search(rf"^\| .*`{field.name}`.* \|", section, re.MULTILINE), field.name


def test_the_page_of_files_has_every_key() -> None:
    page = read("docs", "files.md")
    for title, kind in (("metrics.jsonl", MetricsRecord), ("summary.json", SummaryFile)):
        section = page.partition(f"### `{title}`")[2].partition("\n### ")[0]
        for key in kind.__annotations__:
            assert f"`{key}`" in section, f"{title}: {key}"


def test_the_page_of_compatibility_has_the_formats() -> None:
    page = read("docs", "compatibility.md")
    formats = dict(re.findall(r"^\| `([\w./*]+)`[^|]*\| (\d+) \|", page, re.MULTILINE))
    assert formats == {
        "router.json": str(router.FORMAT),
        "checkpoints/*/state.json": str(checkpoints.FORMAT),
    }
