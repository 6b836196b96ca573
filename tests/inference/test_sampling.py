import math
from collections import Counter

import pytest
import torch

from fedrouter.errors import RequestError
from fedrouter.inference.sampling import Sampling, logprob, sample

LOGITS = torch.log(torch.tensor([0.1, 0.2, 0.7]))


def drawn(**settings: float) -> Counter[int]:
    draws = torch.Generator().manual_seed(0)
    return Counter(sample(LOGITS, Sampling(1, **settings), draws) for _ in range(2000))


def test_greedy_takes_the_most_probable() -> None:
    assert drawn() == {2: 2000}


def test_tokens_are_drawn_by_their_probabilities() -> None:
    counts = drawn(temperature=1.0)
    for token, probability in enumerate((0.1, 0.2, 0.7)):
        deviation = math.sqrt(probability * (1 - probability) / 2000)
        assert abs(counts[token] / 2000 - probability) < 4 * deviation


def test_temperature_sharpens() -> None:
    # p^2 / sum p^2 at temperature 0.5
    assert abs(drawn(temperature=0.5)[2] / 2000 - 0.49 / 0.54) < 0.03


def test_top_p_leaves_the_smallest_set_that_reaches_it() -> None:
    assert set(drawn(temperature=1.0, top_p=0.7)) == {2}
    assert set(drawn(temperature=1.0, top_p=0.71)) == {1, 2}
    assert set(drawn(temperature=1.0, top_p=1e-9)) == {2}


def test_log_probabilities_are_those_of_the_model() -> None:
    one = logprob(LOGITS, 1, top=2)
    assert one.logprob == pytest.approx(math.log(0.2))
    assert [token for token, _ in one.top] == [2, 1]
    assert one.top[0][1] == pytest.approx(math.log(0.7))


@pytest.mark.parametrize(
    "settings",
    [
        {"max_tokens": 0},
        {"temperature": float("nan")},
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"stop": ("",)},
        {"stop": ("x",) * 17},
        {"logprobs": 21},
    ],
)
def test_values_out_of_range_are_named(settings: dict) -> None:
    with pytest.raises(RequestError) as caught:
        Sampling(**{"max_tokens": 1, **settings})
    assert caught.value.parameter == next(iter(settings))
