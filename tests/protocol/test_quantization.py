import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedrouter.protocol.quantization import (
    from_int4,
    from_int8,
    int4_bytes,
    int8_bytes,
    most_numbers,
    to_int4,
    to_int8,
)

FLOATS = st.floats(-60000, 60000, width=32).map(lambda x: x if abs(x) > 1e-30 else 0.0)
SHAPES = st.tuples(st.integers(0, 5), st.integers(1, 40)).flatmap(
    lambda shape: st.sampled_from([shape, shape[::-1]])
)
MATRICES = SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=FLOATS))


def test_int4_by_hand() -> None:
    packed, scales = to_int4(np.array([[7, -3.4, 0.4]], np.float32))
    assert scales.tolist() == [1]
    assert packed.tolist() == [(7 + 8) + 16 * (-3 + 8), (0 + 8) + 16 * (0 + 8)]
    assert from_int4(packed, scales, (1, 3)).tolist() == [[7, -3, 0]]


def test_int4_has_a_scale_for_each_64_numbers_along_the_ranks() -> None:
    ranks = np.stack([np.full(64, 7), np.full(64, -70), np.zeros(64)]).astype(np.float32)
    for matrix in (ranks, ranks.T):  # as A and as B
        packed, scales = to_int4(matrix)
        assert (packed.shape, scales.tolist()) == ((96,), [1, 10, 0])
        assert from_int4(packed, scales, matrix.shape).tolist() == matrix.tolist()


@given(MATRICES)
def test_no_number_changes_by_more_than_half_a_scale(matrix: NDArray[np.float32]) -> None:
    exact = matrix.astype(np.float64)
    rounded, scales = to_int8(matrix)
    assert (np.abs(from_int8(rounded, scales) - exact) <= 0.50002 * scales).all()
    packed, steps = to_int4(matrix)
    error = np.abs(from_int4(packed, steps, matrix.shape) - exact)
    along_ranks = (error if matrix.shape[0] <= matrix.shape[1] else error.T).ravel()
    assert (along_ranks <= 0.50002 * np.repeat(steps, 64)[: matrix.size]).all()


@given(MATRICES)
def test_a_matrix_that_was_rounded_does_not_change(matrix: NDArray[np.float32]) -> None:
    once = from_int8(*to_int8(matrix))
    assert from_int8(*to_int8(once)).tobytes() == (once + 0.0).tobytes()
    packed, scales = to_int4(matrix)
    again, same = to_int4(from_int4(packed, scales, matrix.shape))
    assert (again.tobytes(), same.tobytes()) == (packed.tobytes(), scales.tobytes())


@given(MATRICES)
def test_sizes_are_known_before_anything_is_rounded(matrix: NDArray[np.float32]) -> None:
    rounded, scales = to_int8(matrix)
    assert int8_bytes(matrix.shape) == rounded.nbytes + scales.nbytes
    packed, steps = to_int4(matrix)
    assert int4_bytes(matrix.shape) == packed.nbytes + steps.nbytes
    assert rounded.size + scales.size <= most_numbers(matrix.shape)
    assert 2 * packed.size + steps.size <= most_numbers(matrix.shape)


PACKED, STEPS = np.zeros(2, np.uint8), np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("packed", "scales", "shape"),
    [
        (PACKED, STEPS, (1, 5)),
        (PACKED, STEPS, (1, 2)),
        (PACKED, STEPS, (-1, -3)),
        (PACKED, STEPS, (10**30, 10**30)),
        (PACKED[:, None], STEPS, (1, 3)),
        (PACKED, STEPS[:0], (1, 3)),
        (PACKED, np.ones(2, np.float32), (1, 3)),
        (PACKED, np.ones(1, np.float64), (1, 3)),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    packed: NDArray[np.uint8], scales: NDArray[np.float32], shape: tuple[int, int]
) -> None:
    assert from_int4(PACKED, STEPS, (1, 3)).tolist() == [[-8, -8, -8]]
    with pytest.raises(ValueError, match="two integers in a byte"):
        from_int4(packed, scales, shape)
