import pytest
from support.places import ROOT

from fedrouter.data.rows import Row
from fedrouter.evaluation.scoring import EvalItem, EvalResult

SCRIPTS = ROOT / "scripts"
ASKED = "Is it so?\nOPTIONS:\n- yes\n- it is not possible to tell\n- no"


@pytest.fixture
def evaluate(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import evaluate_nano

    return evaluate_nano


def _answered(*texts):
    questions = [EvalItem(Row(ASKED, "no", str(i)), ()) for i in range(len(texts))]
    scores = {"loss": 1.0, "rouge1": 0.5, "exact_match": 0.25}
    return questions, {q: EvalResult(t, scores) for q, t in zip(questions, texts, strict=True)}


def test_share_of_valid_labels(evaluate):
    questions, answers = _answered("yes", "it is not possible to tell", " no ", "possible")
    assert evaluate.share_of_valid_labels(questions, answers) == 0.75
    assert evaluate.cell(questions, answers) == "1.00 / 0.50 / 0.25, 75% valid"


def test_prompts_without_options_have_no_valid_labels(evaluate):
    question = EvalItem(Row("Write on.", "Yes."), ())
    assert evaluate.share_of_valid_labels([question], {}) is None


def test_first_rows_of_each_task(evaluate):
    rows = [Row(str(i), "x", task) for i, task in enumerate("ababab")]
    assert [row.instruction for row in evaluate.first_of_each(rows, 2)] == ["0", "2", "1", "3"]
