"""Conversion between number types."""

from __future__ import annotations

import numpy as np
import pytest

from napari_busref.images.dtypes import cast, checked_fill, float_origin, minus, plus

LIMITS = [("i8", -(2**63), 2**63 - 1), ("u8", 0, 2**64 - 1)]


@pytest.mark.parametrize(("dtype", "low", "high"), LIMITS)
def test_sums_of_64_bit_integers_are_exact_and_saturate(dtype, low, high):
    values = np.array([low, low + 1, high - 1, high, 2**62 + 1], dtype)
    down, up = plus(values, np.full(5, -3.2)), plus(values, np.full(5, 2.6))
    assert down.tolist() == [low, low, high - 4, high - 3, 2**62 - 2]
    assert up.tolist() == [low + 3, low + 4, high, high, 2**62 + 4]
    assert plus(values, np.full(5, 1e300)).tolist() == [high] * 5
    assert plus(values, np.full(5, -1e300)).tolist() == [low] * 5


def test_differences_of_64_bit_integers_are_exact():
    values = np.array([2**62 + 3, 2**62 + 5, 2**62 - 1], "i8")
    origin = float_origin(values)
    assert origin == 2**62 - 1
    assert minus(values, origin).tolist() == [4, 6, 0]
    assert minus(values, 2**62 + 4).tolist() == [-1, 1, -5]
    small = np.array([0, 2**53], "i8")
    assert float_origin(small) is None
    assert minus(small, None) is small


@pytest.mark.parametrize("dtype", ["f2", "f4"])
def test_floats_beyond_the_type_are_clipped_and_infinite_ones_stay(dtype):
    found = cast(np.array([1e300, -1e300, np.inf, np.nan, 1.5]), np.dtype(dtype))
    limit = np.finfo(dtype).max
    np.testing.assert_array_equal(found, np.array([limit, -limit, np.inf, np.nan, 1.5], dtype))


@pytest.mark.parametrize(("dtype", "low", "high"), LIMITS)
def test_fill_values_of_64_bit_integers(dtype, low, high):
    kind = np.dtype(dtype)
    assert checked_fill(high, kind, "cval") == high
    assert checked_fill(low, kind, "cval") == low
    assert checked_fill(2.5, kind, "cval") == 2
    for bad in (high + 1, 1e300, np.nan, np.inf):
        with pytest.raises(ValueError, match="cval: got"):
            checked_fill(bad, kind, "cval")
