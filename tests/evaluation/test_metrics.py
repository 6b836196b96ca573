import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from fedrouter.evaluation.metrics import (
    ari,
    calibration_error,
    contingency,
    exact_match,
    majority,
    mean,
    nmi,
    purity,
    rouge,
    routing_accuracy,
)

FOUND = ["task-00", "task-00", "task-00", "task-01", "task-01"]
TRUE = ["qa", "qa", "nli", "nli", "qa"]
GROUPINGS = st.integers(1, 30).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 4), min_size=n, max_size=n),
        st.lists(st.sampled_from("abc"), min_size=n, max_size=n),
    )
)


def test_rouge_by_hand() -> None:
    # unigrams: 3 of 4 and 3 of 5; bigrams: 1 of 3 and 1 of 4; longest common subsequence: 3
    scores = rouge("the cat sat down", "The cat, it sat there.")
    assert scores == pytest.approx({"rouge1": 6 / 9, "rouge2": 2 / 7, "rougeL": 6 / 9})


def test_rouge_heeds_order_only_beyond_single_words() -> None:
    scores = rouge("b a", "a b")
    assert scores == pytest.approx({"rouge1": 1, "rouge2": 0, "rougeL": 0.5})


def test_rouge_does_not_stem_and_survives_nothing() -> None:
    assert rouge("cats", "cat")["rouge1"] == 0
    assert rouge("", "cat") == rouge("cat", "") == {"rouge1": 0, "rouge2": 0, "rougeL": 0}


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("yes", "yes", 1.0),
        (" a\t b\n", "a b", 1.0),
        ("Yes", "yes", 0.0),
        ("ab", "a b", 0.0),
        ("", " ", 1.0),
    ],
)
def test_exact_match(prediction: str, reference: str, score: float) -> None:
    assert exact_match(prediction, reference) == score


def test_mean() -> None:
    assert mean([{"a": 1.0, "b": 0.0}, {"a": 0.5, "b": 0.0}]) == {"a": 0.75, "b": 0.0}
    assert mean([]) == {}


def test_majority_by_hand_with_a_tie() -> None:
    assert majority(contingency(FOUND, TRUE)) == {"task-00": "qa", "task-01": "nli"}


def test_purity_by_hand() -> None:
    assert purity(contingency(FOUND, TRUE)) == pytest.approx(3 / 5)


def test_routing_accuracy_by_hand() -> None:
    stands_for: dict[str, str] = {"task-00": "qa", "task-01": "nli"}
    found = ["task-00", "task-01", "task-01", "task-02"]
    assert routing_accuracy(contingency(found, ["qa", "nli", "qa", "qa"]), stands_for) == 0.5


def test_same_grouping_under_other_names_is_perfect() -> None:
    table = contingency([1, 1, 0, 2], ["a", "a", "b", "c"])
    assert ari(table) == purity(table) == 1.0
    assert nmi(table) == pytest.approx(1.0)


def test_ari_by_hand() -> None:
    # pairs together in both: 1; in found: 4; in true: 4; expected 4 * 4 / 10
    assert ari(contingency(FOUND, TRUE)) == pytest.approx((1 - 1.6) / (4 - 1.6))


@given(GROUPINGS)
def test_groupings_agree_with_scikit_learn(groupings: tuple[list[int], list[str]]) -> None:
    found, true = groupings
    table = contingency(found, true)
    assert ari(table) == pytest.approx(adjusted_rand_score(true, found))
    assert nmi(table) == pytest.approx(normalized_mutual_info_score(true, found), abs=1e-9)
    hits = contingency_matrix(true, found).max(axis=0).sum()
    assert purity(table) == pytest.approx(hits / len(true))


def test_the_calibration_error_is_the_gap_in_each_bin() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False, False, True])
    # Four at 0.95 of which 0.75 are right, two at 0.55 of which half are.
    expected = (4 * 0.2 + 2 * 0.05) / 6
    assert calibration_error(confidence, right) == pytest.approx(expected)
    assert calibration_error(np.ones(3), np.ones(3, bool)) == 0
    assert calibration_error(np.zeros(0), np.zeros(0, bool)) == 0
