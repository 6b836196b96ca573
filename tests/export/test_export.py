import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from fedrouter.errors import ExportError, MissingExtraError, ModelError, RunError
from fedrouter.export import TARGETS, export_run
from fedrouter.export.source import ExportSource
from fedrouter.export.vllm import serve_command


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_names_this_machine(target: str, toy_run: Path, tmp_path: Path) -> None:
    export_run(toy_run, target, tmp_path / "out", "someone/tiny")
    base = next(line for line in (toy_run / "config.toml").open() if line.startswith("name"))
    places = [json.loads(base.partition("=")[2]), str(toy_run), str(tmp_path)]
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 4
    for path in files:
        content = path.read_bytes()
        assert not any(place.encode() in content for place in places), path
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_may_replace_an_export(toy_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    export_run(toy_run, "vllm", out, "someone/tiny")
    assert (out / "chat_template.jinja").exists()
    export_run(toy_run, "peft", out, "someone/tiny")
    assert not (out / "chat_template.jinja").exists()
    assert json.loads((out / "export.json").read_text())["fedrouter_export"] == "peft"


def test_other_folders_are_left_alone(toy_run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="not an export"):
        export_run(toy_run, "peft", tmp_path, "someone/tiny")
    with pytest.raises(ExportError, match="is a file"):
        export_run(toy_run, "peft", tmp_path / "notes.txt", "someone/tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failure_leaves_nothing(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedrouter.export.peft.write_template", full)
    with pytest.raises(RunError, match="disk is full"):
        export_run(toy_run, "peft", tmp_path / "out", "someone/tiny")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["peft", "vllm"])
def test_a_base_model_that_only_this_machine_has(
    target: str, toy_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="--base-name"):
        export_run(toy_run, target, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_target(toy_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="peft, vllm, gguf"):
        export_run(toy_run, "onnx", tmp_path / "out")


def test_without_the_package_gguf(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"fedrouter\[gguf\]"):
        export_run(toy_run, "ollama", tmp_path / "out")


def test_an_unfinished_run(toy_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_run, tmp_path / "run"))
    (folder / "summary.json").unlink()
    with pytest.raises(RunError, match="fedrouter resume"):
        export_run(folder, "peft", tmp_path / "out", "someone/tiny")


def test_another_base_model_is_not_merged(toy_source: ExportSource) -> None:
    source = ExportSource(
        **{**vars(toy_source), "summary": {**toy_source.summary, "base_fingerprint": "0"}}
    )
    with pytest.raises(ModelError, match="another base model"):
        source.load_base()


def test_the_model_card(toy_run: Path, toy_source: ExportSource, tmp_path: Path) -> None:
    export_run(toy_run, "peft", tmp_path / "out", "someone/tiny")
    task = next(task for task in toy_source.summary["tasks"] if "colour" in task["true_tasks"])
    card = ModelCard.load(tmp_path / "out" / task["id"] / "README.md")
    assert card.data.base_model == "someone/tiny"
    assert card.data.library_name == "peft"
    scores = toy_source.summary["metrics"]["by_task"]["colour"]
    for row in (
        f"| training samples | {task['samples']} |",
        "| LoRA | rank 2, alpha 16, on q_proj, v_proj |",
        f"| ROUGE-1 | {scores['base']['rouge1']:.3f} | {scores['global']['rouge1']:.3f} |",
    ):
        assert row in card.text
    assert "````text\n{instruction}\n\n````" in card.text


def test_vllms_command(toy_source: ExportSource) -> None:
    assert serve_command(toy_source) == (
        "vllm serve someone/tiny --enable-lora --max-lora-rank 8 --max-loras 3 "
        "--chat-template chat_template.jinja"
    )


def test_vllms_resolver_takes_the_folders(toy_run: Path, tmp_path: Path) -> None:
    """The resolver compares these two fields of ``DIR/TASK/adapter_config.json``."""
    export_run(toy_run, "vllm", tmp_path / "out", "someone/tiny")
    configs = [json.loads(path.read_text()) for path in tmp_path.glob("out/*/adapter_config.json")]
    assert len(configs) == 3
    for config in configs:
        assert config["peft_type"] == "LORA"
        assert config["base_model_name_or_path"] == "someone/tiny"
