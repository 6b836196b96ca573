import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.toys import toy_settings

import fedrouter
from fedrouter.cli.app import main

Run = tuple[int, str, str]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Call the command line in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["fedrouter", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


def sets(values: list[str]) -> list[str]:
    return [part for value in values for part in ("--set", value)]


def test_help_lists_the_commands(cli) -> None:
    code, out, _ = cli("--help")
    assert code == 0
    for command in ("run", "resume", "evaluate", "route", "generate", "tasks", "export", "demo"):
        assert command in out


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from fedrouter.cli import app; "
        "print([m for m in ('torch', 'numpy', 'sklearn', 'pydantic') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--set", "data.train=gone.jsonl"],
        ["run", "--set", "model.name=./gone"],
        ["compare", "--set", "model.name=./gone"],
        ["generate", "gone", "x"],
        ["evaluate", "gone"],
        ["tasks", "gone"],
        ["report", "gone"],
        ["export", "gone", "--to", "peft", "-o", "out"],
    ],
)
def test_errors_that_need_no_model_come_before_torch(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('torch' in sys.modules, 'scipy' in sys.modules))\n"
        f"sys.argv = ['fedrouter', *{arguments!r}]\n"
        "from fedrouter.cli.app import main\n"
        "main()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2, ran.stderr
    assert ran.stdout.strip() == "False False"


def test_run_shows_what_it_found(cli, tiny_folder: Path, toy_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, out, err = cli("run", *sets(toy_settings(tiny_folder, toy_data)), "-o", folder)
    assert code == 0
    assert "task-00" in out
    assert "colour" in out
    assert "routing:" in out
    assert "train" in err  # progress does not mix with the result
    assert "train.jsonl: instruction and response, 72 rows" in err
    assert (folder / "summary.json").exists()


def test_run_on_a_folder_of_conversations_and_alpaca_rows(
    cli, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows").mkdir()
    chats = [
        [("system", "Add."), ("user", f"{i} + {i}"), ("assistant", f"{2 * i}"),
         ("user", "+ 1"), ("assistant", f"{2 * i + 1}")]
        for i in range(10)
    ]  # fmt: skip
    messages = [[{"role": role, "content": text} for role, text in chat] for chat in chats]
    alpaca = [{"instruction": "Copy.", "input": f"x{i}", "output": f"x{i}"} for i in range(10)]
    (tmp_path / "rows/alpaca.json").write_text(json.dumps(alpaca))
    (tmp_path / "rows/chat.jsonl").write_text(
        "".join(json.dumps({"messages": chat, "id": 7}) + "\n" for chat in messages)
    )
    monkeypatch.chdir(tmp_path)
    settings = [
        f"model.name={tiny_folder}",
        "model.max_length=384",
        "data.train=rows",
        "data.turns=all",
        "federation.clients=2",
        "federation.rounds=1",
        "training.steps=1",
        "evaluation.max_new_tokens=2",
    ]
    code, _, err = cli("run", *sets(settings), "-o", "run")
    assert code == 0, err
    for line in (
        "rows/alpaca.json: Alpaca instruction, input and output, 10 rows",
        "rows/chat.jsonl: chat messages, 20 rows",
        "rows/chat.jsonl: not used: 'id'",
    ):
        assert line in err
    assert cli("evaluate", "run", "--data", "rows/*.jsonl")[0] == 0


def test_run_names_its_own_folder(
    cli, tiny_folder: Path, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["evaluation.enabled=false", "federation.rounds=1"]
    for _ in range(2):
        code, out, _ = cli("run", *sets([*toy_settings(tiny_folder, toy_data), *quick]))
        assert code == 0
        assert "Discovered tasks" in out
        assert "routing" not in out  # no scores were asked for
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(runs) == 2
    assert all(name.startswith("fedrouter-0-") for name in runs)


def test_resume_of_a_finished_run_says_so(cli, toy_run: Path) -> None:
    code, out, _ = cli("resume", toy_run)
    assert code == 0
    assert "finished" in out


def test_route_as_json(cli, toy_run: Path) -> None:
    code, out, _ = cli("route", toy_run, "7 8 9", "[{x=5}];;", "--json")
    first, second = (json.loads(line) for line in out.splitlines())
    assert code == 0
    assert set(first) == {"prompt", "task", "confidence", "known", "distances"}
    assert first["distances"][0][0] == first["task"]
    assert first["prompt"] == "7 8 9"
    assert first["task"] != second["task"]


def test_generate_from_standard_input(cli, toy_run: Path, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "prompts").write_text("7 8 9\n\n[{x=5}];;\n")
    for options, expected in (["--lines"], ["7 8 9", "[{x=5}];;"]), ([], ["7 8 9\n\n[{x=5}];;"]):
        with (tmp_path / "prompts").open() as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            code, out, _ = cli("generate", toy_run, "-", "--json", "--max-new-tokens", 3, *options)
        answers = [json.loads(line) for line in out.splitlines()]
        assert code == 0
        assert [answer["prompt"] for answer in answers] == expected
    assert set(answers[0]) == {"prompt", "task", "confidence", "known", "distances", "text"}


def test_prompts_that_are_not_text(cli, toy_run: Path) -> None:
    assert cli("route", toy_run, " ")[0] == 2
    assert cli("route", toy_run)[0] == 2
    assert cli("generate", toy_run, "caf\udce9")[0] == 2


def test_generate_for_people(cli, toy_run: Path) -> None:
    code, out, _ = cli("generate", toy_run, "7 8 9", "--client", 0)
    assert code == 0
    assert "7 8 9" in out
    assert "task-0" in out


def test_tasks_shows_the_nearest_prompts(cli, toy_run: Path) -> None:
    code, out, _ = cli("tasks", toy_run, "--prompts", 1)
    assert code == 0
    assert "WHICH COLOUR" in out
    assert "Distances" in out


def test_tasks_as_json(cli, toy_run: Path) -> None:
    code, out, _ = cli("tasks", toy_run, "--prompts", 1, "--json")
    found = json.loads(out)
    summary = json.loads((toy_run / "summary.json").read_text())
    assert code == 0
    assert found["tasks"] == summary["tasks"]
    names = [task["id"] for task in found["tasks"]]
    assert list(found["distances"]) == names
    for i, name in enumerate(names):
        assert found["distances"][name][i] == pytest.approx(0, abs=1e-3)
    assert {name: len(texts) for name, texts in found["prompts"].items()} == dict.fromkeys(names, 1)


def test_run_of_clients_with_data_of_their_own(
    cli, toy_run: Path, toy_data: Path, tmp_path
) -> None:
    """Nothing takes the built-in tasks for the rows of a run that has none here."""
    folder = tmp_path / "deployed"
    shutil.copytree(toy_run, folder)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "data": ""}))
    code, out, _ = cli("tasks", folder)
    assert code == 0
    assert "Nearest prompts" not in out
    assert "no prompts to show: the rows of this run are with its clients" in out
    code, _, err = cli("evaluate", folder)
    assert code == 2
    assert "fedrouter evaluate DIR --data FILE" in err
    assert cli("evaluate", folder, "--data", toy_data / "test.jsonl")[0] == 0


def test_data_that_changed_since_the_run(cli, toy_run: Path, tmp_path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(toy_run, folder)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "data": "0" * 32}))
    code, _, err = cli("evaluate", folder)
    assert code == 2
    assert "put those back" in err


def test_report_as_json(cli, toy_run: Path) -> None:
    pytest.importorskip("matplotlib")
    code, out, _ = cli("report", toy_run, "--json")
    assert code == 0
    assert Path(json.loads(out)["report"]).is_file()


def test_resume_as_json(cli, toy_run: Path) -> None:
    code, out, _ = cli("resume", toy_run, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((toy_run / "summary.json").read_text())


def test_evaluate_the_test_split(cli, toy_run: Path) -> None:
    code, out, _ = cli("evaluate", toy_run, "--json")
    summary = json.loads((toy_run / "summary.json").read_text())
    measured = json.loads(out)
    assert code == 0
    for part in ("global", "base"):
        assert measured["metrics"][part] == pytest.approx(summary["metrics"][part])
    assert measured["routing"]["accuracy"] == summary["routing"]["accuracy"]


def test_evaluate_other_rows(cli, toy_run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("instruction,response\n1 2 3,4\n")
    code, out, err = cli("evaluate", toy_run, "--data", tmp_path / "mine.csv")
    assert code == 0
    assert "mine.csv: instruction and response, 1 row" in "".join(err.splitlines())
    assert "task-0" in out
    assert "routing" not in out  # the rows name no task


def test_evaluate_rows_of_unknown_tasks(cli, toy_run: Path, toy_data: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (toy_data / "test.jsonl").read_text().splitlines()]
    known = {row["task"] for row in rows}
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "task": "weather"}])
    )
    code, out, _ = cli("evaluate", toy_run, "--data", mixed, "--json")
    summary = json.loads((toy_run / "summary.json").read_text())
    routing = json.loads(out)["routing"]
    assert code == 0
    assert routing == {
        "accuracy": pytest.approx(summary["routing"]["accuracy"]),
        "unknown_tasks": ["weather"],
    }
    mixed.write_text(json.dumps({**rows[0], "task": "weather"}))
    code, out, _ = cli("evaluate", toy_run, "--data", mixed)
    assert code == 0
    assert "%" not in out
    assert f"not trained on: weather; it knows {', '.join(sorted(known))}" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere.toml"], ["nowhere.toml"]),
        (["run", "--set", "training.stepz=3"], ["training.stepz", "training.steps"]),
        (["run", "--set", "strategy=fedrooter"], ["fedrooter", "fedrouter"]),
        (["run", "--set", "training.steps=0", "--set", "seed=-1"], ["training.steps", "seed"]),
        (["run", "--set", "data.train=gone.jsonl"], ["gone.jsonl"]),
        (["run", "--set", "model.name=./gone"], ["./gone"]),
        (["resume", "gone"], ["gone"]),
        (["route", "gone", "x"], ["gone"]),
        (["evaluate", "gone"], ["gone"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    cli, arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(*arguments)
    assert code == 2
    assert out == ""
    *before, error = err.strip().splitlines()
    assert error.startswith("error: ")
    assert not any("error" in line for line in before)
    for word in words:
        assert word in error
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_export_says_where_it_explains_itself(cli, toy_run: Path, tmp_path: Path) -> None:
    arguments = ["--to", "peft", "-o", tmp_path / "out", "--base-name", "someone/tiny"]
    code, out, _ = cli("export", toy_run, *arguments)
    assert code == 0
    assert Path(out.strip().rpartition(" ")[2]).read_text().startswith("# Adapters")
    code, out, err = cli("export", toy_run, *arguments[:4])
    assert code == 2
    assert "--base-name" in err
    assert len(err.strip().splitlines()) == 1


def test_an_existing_run_is_refused(cli, toy_run: Path, tiny_folder: Path, toy_data: Path) -> None:
    code, _, err = cli("run", *sets(toy_settings(tiny_folder, toy_data)), "-o", toy_run)
    assert code == 2
    assert "fedrouter resume" in err


def test_public_names() -> None:
    assert sorted(fedrouter.__all__) == [
        "Config",
        "FedRouterError",
        "Generation",
        "Route",
        "RoutedModel",
        "Row",
        "Section",
        "ServerState",
        "SingleAdapter",
        "Strategy",
        "TrainOrder",
        "load_config",
        "register_strategy",
        "resume",
        "run",
    ]
    for name in fedrouter.__all__:
        assert getattr(fedrouter, name) is not None
        assert name in dir(fedrouter)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = fedrouter.nonsense


def test_version(cli) -> None:
    assert cli("--version") == (0, f"fedrouter {fedrouter.__version__}\n", "")


@pytest.mark.parametrize("command", ["run", "generate", "evaluate", "report"])
def test_help_explains_the_arguments(cli, command: str) -> None:
    _, out, _ = cli(command, "--help")
    arguments = out.partition("Arguments")[2].partition("Options")[0]
    assert "Configuration" in arguments if command == "run" else "run folder" in arguments


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str, tmp_path: Path) -> None:
    program = tmp_path / "fedrouter"
    program.write_text(f"#!{sys.executable}\nfrom fedrouter.cli.app import main\nmain()\n")
    program.chmod(0o755)
    words = {
        "_FEDROUTER_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "fedrouter eval",
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "fedrouter eval",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    ran = subprocess.run(
        [program], env={**os.environ, **words}, capture_output=True, text=True, check=True
    )
    assert "evaluate" in ran.stdout
    assert "generate" not in ran.stdout


def test_runs_beside_one_another(cli, toy_run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(toy_run, tmp_path / "other"))
    code, out, _ = cli("compare-runs", toy_run, other)
    assert code == 0
    assert "ROUGE-1, all tasks" in out
    assert "trained tokens" in out
    assert "Settings that differ" not in out
    code, out, _ = cli("compare-runs", toy_run, other, "--json")
    assert (code, [run["name"] for run in json.loads(out)["runs"]]) == (0, ["run", "other"])
    code, _, err = cli("compare-runs", toy_run, tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "is not a run folder" in err


def test_an_unfinished_run_of_a_deployment_is_gone_on_with_by_the_operator(
    cli, toy_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(toy_run, tmp_path / "first"))
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(
        config.replace("# fedrouter run", "# fedrouter run\n# deployed")
    )
    assert cli("resume", run)[0] == 0  # it is finished
    (run / "summary.json").unlink()
    commands = [["resume", run], ["tasks", run], ["evaluate", run], ["report", run]]
    for command in [*commands, ["generate", run, "x"]]:
        code, _, err = cli(*command)
        assert (code, err.count("\n")) == (2, 1)
        assert "operator/run.sh first" in err
        assert "fedrouter resume" not in err


def test_doctor_needs_a_folder_of_a_deployment(cli, tmp_path: Path) -> None:
    code, _, err = cli("deploy", "doctor", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "fedrouter deploy init" in err
