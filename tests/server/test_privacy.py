"""What the server says of a run with differential privacy, and its public profile."""

from typing import Any

import numpy as np
import pytest
from support.configs import resolved

from fedrouter.model.base_model import BaseModel
from fedrouter.routing.federated_kmeans import standardization
from fedrouter.server.privacy import privacy_warnings, public_profile
from fedrouter.server.summary import privacy_line


def entry(*only_noise: str) -> dict[str, Any]:
    return {
        "epsilon": 8.0,
        "spent": 7.9999,
        "delta": 1e-5,
        "unit": "client",
        "releases": 29,
        "movement": {"task-00": 1.4, "task-01": 1.0},
        "only_noise": [*only_noise],
    }


def scores(trained: float, base: float) -> dict[str, Any]:
    return {"global": {"loss": trained}, "base": {"loss": base}}


def test_a_run_that_learnt_something_has_no_warning() -> None:
    assert not list(privacy_warnings(entry(), scores(2.0, 4.0)))
    assert not list(privacy_warnings(None, scores(5.0, 4.0)))  # not private
    assert not list(privacy_warnings(entry(), {"global": None, "base": None}))  # not evaluated


def test_adapters_that_are_only_noise_are_named() -> None:
    [warning] = privacy_warnings(entry("task-01"), scores(2.0, 4.0))
    assert warning.startswith("WARNING: task-01 moved no farther than noise alone would")


def test_a_loss_that_is_not_below_the_base_models_is_said() -> None:
    [warning] = privacy_warnings(entry(), scores(4.5, 4.0))
    assert "with the adapters the loss on test rows is 4.500, without 4.000" in warning
    assert "\n" not in warning


def test_one_line_says_what_is_spent() -> None:
    assert privacy_line(entry("task-01")) == (
        "differential privacy: epsilon 8 of 8 spent at delta 1e-05 in 29 releases, per client; "
        "only noise: task-01"
    )


def test_the_public_profile_is_that_of_prompts_which_no_client_has(tiny_base: BaseModel) -> None:
    config = resolved().model
    profile = public_profile(tiny_base, config)
    assert profile.counts == (320,)
    standard = standardization([profile])
    again = standardization([public_profile(tiny_base, config)])
    np.testing.assert_array_equal(standard.mean, again.mean)
    assert profile.variances is not None
    assert profile.second_moments[0] == pytest.approx(profile.variances.sum(), rel=1e-5)
