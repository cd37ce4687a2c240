"""The model of the drift: steps, single wrong frames, gaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_busref.registration.drift import Drift, RegisteredFrame
from napari_busref.registration.quality import unregistered
from napari_busref.transforms.transform import Transform

SHAPE = (40, 60)
CENTRE = np.array([19.5, 29.5])


def frame(shift: NDArray[np.float64], status: str = "registered", **more: object):
    affine = np.array([(1, 0.01, shift[0]), (0, 1, shift[1]), (0, 0, 1)])
    transform = Transform(affine, fixed_shape=SHAPE, moving_shape=SHAPE)
    mask = np.ones(SHAPE, bool)
    quality = replace(
        unregistered(mask, "blank"), status=status, reliable=status == "registered", score=0.9
    )
    return RegisteredFrame(transform, replace(quality, **more), mask)


def shifts(count: int = 40, step: int = 20) -> NDArray[np.float64]:
    t = np.arange(count)
    found = np.stack([0.3 * t, 2 * np.sin(t / 15)], 1)
    found[step:] += (12, -9)
    return found


def test_a_step_is_no_outlier_and_is_not_smeared() -> None:
    rng = np.random.default_rng(0)
    truth = shifts()
    frames = {n: frame(one + rng.normal(0, 0.2, 2)) for n, one in enumerate(truth)}
    drift = Drift(frames)
    assert drift.to_repeat() == []
    centres = np.array([drift.centre(n) for n in range(40)])
    own = np.array([one.transform.points(CENTRE) for one in frames.values()])
    exact = truth + CENTRE + (0.01 * CENTRE[1], 0)
    errors = [np.hypot(*(found - exact).T) for found in (centres, own)]
    assert errors[0].max() < 0.7 and errors[0].mean() < 0.7 * errors[1].mean()


@pytest.mark.parametrize("wrong", [(7,), (19,), (20,), (0,), (8, 9, 10, 11, 12)])
def test_wrong_frames_are_found_and_start_where_the_model_is(wrong: tuple[int, ...]) -> None:
    truth = shifts()
    frames = {n: frame(one + 8 * (n in wrong)) for n, one in enumerate(truth)}
    drift = Drift(frames)
    found = drift.to_repeat()
    assert set(wrong) <= set(found) and (len(wrong) > 1 or len(found) == 1)
    for n in wrong:
        starts = [one.points(CENTRE) for one in drift.starts(n)]
        expected = frame(truth[n]).transform.points(CENTRE)
        assert min(np.hypot(*(one - expected)) for one in starts) < 1
        right = frame(truth[n])
        assert drift.better(n, frames[n], right) is right
        assert drift.better(n, right, frames[n]) is right


def test_gaps_are_interpolated_with_a_reason() -> None:
    truth = shifts()
    frames = {n: frame(one) for n, one in enumerate(truth)}
    for n in (0, 8, 9, 10, 39):
        frames[n] = frame(np.zeros(2), "not registered")
    frames[30] = frame(truth[30] + 30, reliable=False, reasons=("few edges",))
    frames[31] = frame(truth[31], reliable=False, reasons=("few edges",))  # near the model
    drift = Drift(frames)
    assert drift.to_repeat() == [0, 8, 9, 10, 30, 31, 39]
    gaps = drift.gaps()
    assert list(gaps) == [0, 8, 9, 10, 30, 39]
    for n, gap in gaps.items():
        expected = frame(truth[n]).transform.points(CENTRE)
        assert np.hypot(*(gap.transform.points(CENTRE) - expected)) < 0.5
        assert gap.quality.status == "not registered" and not gap.mask.any()
        assert "interpolated from other frames" in gap.quality.reasons[-1]
    assert gaps[8].quality.reasons[0] == "blank"
    assert "42 px beside the drift" in gaps[30].quality.reasons[1]


def test_the_displacement_of_a_neighbour_stays() -> None:
    bend = np.zeros((2, *SHAPE), np.float32)
    bend[0] = 3 * np.sin(np.arange(60) / 10)
    frames = {}
    for n, shift in enumerate(shifts(12, step=99)):
        whole = frame(shift)
        bent = Transform(whole.transform.affine, bend, fixed_shape=SHAPE, moving_shape=SHAPE)
        frames[n] = whole._replace(transform=bent)
    lost = frames[5]
    frames[5] = frame(np.zeros(2), "not registered")
    (gap,) = Drift(frames).gaps().values()
    points = np.array([(5.0, 5.0), (30, 50), (20, 15)])
    apart = gap.transform.points(points) - lost.transform.points(points)
    assert np.hypot(*apart.T).max() < 0.1


def test_nothing_reliable_leaves_everything() -> None:
    frames = {n: frame(np.zeros(2), "not registered") for n in range(3)}
    drift = Drift(frames)
    assert drift.to_repeat() == [] and drift.gaps() == {}
    np.testing.assert_allclose(drift.centre(1), [CENTRE[0] + 0.01 * CENTRE[1], CENTRE[1]])
    frames[1] = frame(np.array([2.0, 3.0]))
    drift = Drift(frames)  # one frame gives its own transform to all
    assert list(drift.gaps()) == [0, 2]
    found = drift.gaps()[2].transform.affine
    np.testing.assert_allclose(found, frames[1].transform.affine, atol=1e-9)
