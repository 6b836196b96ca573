"""Exported models, loaded by PEFT and transformers."""

import shutil
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from fedrouter import RoutedModel, load_config, run
from fedrouter.errors import ModelError
from fedrouter.export import export_run
from fedrouter.export.source import ExportSource

IDS = torch.arange(20, 60).unsqueeze(0)


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model(input_ids=IDS).logits


def with_adapter(source: ExportSource, task: str) -> PreTrainedModel:
    """The run's own adapter on the run's own base model, by PEFT."""
    return PeftModel.from_pretrained(
        source.load_base(torch.float32), source.run.path / "tasks" / task
    )


def test_auto_peft_loads_nano_and_answers_as_the_run(
    nano_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_run(nano_run, "peft", tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    model = AutoPeftModelForCausalLM.from_pretrained("task-01", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained("fedrouter-nano")
    tokenizer.chat_template = Path("task-01/chat_template.jinja").read_text()
    turns = [{"role": "user", "content": "Which day is 2024-02-29?"}]
    prompt = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    text = tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    routed = RoutedModel.load(nano_run, "cpu")
    expected = routed.multi_adapter.generate([turns[0]["content"]], [(("task-01", 1.0),)], 8)
    assert [text] == expected


def test_a_merged_model_is_base_and_adapter(
    toy_run: Path, toy_source: ExportSource, tmp_path: Path
) -> None:
    export_run(toy_run, "merged", tmp_path / "out")
    for task in toy_source.adapters:
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / task)
        torch.testing.assert_close(logits(merged), logits(with_adapter(toy_source, task)))
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / task)
        turns = [{"role": "user", "content": "7 8 9"}]
        assert tokenizer.apply_chat_template(turns, tokenize=False) == "7 8 9\n"


def test_a_merged_model_has_the_dtype_of_its_base(nano_run: Path, tmp_path: Path) -> None:
    export_run(nano_run, "merged", tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "task-00")
    assert merged.dtype == torch.float16


def test_a_chat_models_own_template_is_part_of_its_base(tiny_folder: Path, tmp_path: Path) -> None:
    """The fingerprint covers the template; the exported folder has the same one."""
    base = shutil.copytree(tiny_folder, tmp_path / "chat")
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
    (base / "chat_template.jinja").write_text(template)
    sets = [f"model.name={base}", "mode=paper", "clustering.n_local=1", "clustering.n_global=2"]
    sets += ["federation.clients=2", "federation.rounds=1", "training.steps=1"]
    sets += ["data.builtin_train=8", "data.builtin_test=2", "evaluation.enabled=false"]
    run(load_config(None, sets), tmp_path / "run")
    export_run(tmp_path / "run", "merged", tmp_path / "out", "someone/chat")
    [one, *_] = sorted((tmp_path / "out").glob("task-*"))
    tokenizer = AutoTokenizer.from_pretrained(one)
    assert tokenizer.get_chat_template() == template
    # Another template makes it another base model.
    (base / "chat_template.jinja").write_text(template + " ")
    with pytest.raises(ModelError, match="put back the one it had"):
        export_run(tmp_path / "run", "merged", tmp_path / "again", "someone/chat")
