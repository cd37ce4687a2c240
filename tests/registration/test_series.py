"""`register_series`: key frames, neighbours, frames beside the drift, gaps."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage import data

from napari_busref import RegistrationResult, SeriesResult, Transform, register_series
from napari_busref.registration import key_frames
from napari_busref.registration.quality import unregistered
from napari_busref.runtime.progress import Cancelled


class Fake:
    """Stands in for `register`: the shift is the first pixel of a frame.

    A frame of zeros is blank. One in `astray` is found elsewhere when it starts more than 5 px
    from its place.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[int, str | None, float]] = []
        self.astray: set[int] = set()

    def register(self, fixed, moving, *, initial, search=None, cancel=None, **options):
        n, shift = (int(value) for value in moving[0, :2])
        start = float(initial.affine[1, 2])
        self.calls.append((n, search, start))
        status = "registered" if moving.any() else "not registered"
        if n in self.astray and abs(start - shift) > 5:
            shift += 30
        affine = np.eye(3)
        affine[1, 2] = shift if moving.any() else start
        transform = Transform(affine, fixed_shape=fixed.shape, moving_shape=moving.shape)
        quality = replace(
            unregistered(transform.mask(), "no texture"),
            status=status,
            reliable=status == "registered",
            score=0.9,
        )
        return RegistrationResult(moving, transform.mask(), transform, quality, {}, {})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake()
    monkeypatch.setattr(key_frames, "register", fake.register)
    return fake


def film(shifts: list[int], blank: tuple[int, ...] = ()) -> NDArray[np.float32]:
    """Frames whose first pixels are their number and their shift."""
    made = np.ones((len(shifts), 32, 200), np.float32)
    made[:, 0, 0], made[:, 0, 1] = np.arange(len(shifts)), shifts
    made[list(blank)] = 0
    return made


def columns(result: SeriesResult) -> list[float]:
    return [round(float(one.affine[1, 2]), 6) for one in result.transforms]


def test_key_frames_are_searched_and_the_others_start_at_their_neighbours(fake: Fake) -> None:
    shifts = list(range(0, 60, 3))
    result = register_series(np.ones((32, 200)), film(shifts), search="wide")
    assert columns(result) == shifts and not result.gaps
    searched = [(n, start) for n, search, start in fake.calls if search == "wide"]
    assert searched == [(15, 0), (5, 45)]  # the middle, and the other from it
    for n, _, start in (call for call in fake.calls if call[1] == "none"):
        assert abs(start - shifts[n]) == 3
    assert len(fake.calls) == 20
    np.testing.assert_allclose(result.drift, [(0, shift) for shift in shifts], atol=1e-9)


def test_a_frame_beside_the_drift_is_registered_again_from_there(fake: Fake) -> None:
    shifts = [0] * 12 + [40] * 12
    fake.astray = {3, 12, 23}
    result = register_series(np.ones((32, 200)), film(shifts))
    assert columns(result) == shifts
    assert np.abs(result.drift - [(0, shift) for shift in shifts]).max() < 0.1


def test_gaps_are_named_and_interpolated(fake: Fake) -> None:
    shifts = list(range(16))
    images: list[object] = [*film(shifts, blank=(8, 9))]
    images[2] = np.ones((31, 200))  # of another size
    result = register_series([np.ones((32, 200))] * 16, images)
    assert columns(result) == shifts
    assert list(result.gaps) == [2, 8, 9]
    assert "(31, 200), need (32, 200)" in result.gaps[2]
    assert "no texture" in result.gaps[8] and "interpolated" in result.gaps[8]
    assert not result.qualities[8].reliable and not result.masks[8].any()
    assert "16 frames, 13 look right, 3 gaps (2, 8, 9)" in repr(result)
    warped = result.apply(images)
    assert warped.shape == (16, 32, 200)
    assert np.isnan(warped[2]).all() and not np.isnan(warped[1]).all()
    with pytest.raises(ValueError, match="got 3 frames, need 16"):
        result.apply(images[:3])


class Lazy(list):
    """A series whose frame 20 cannot be read."""

    def __getitem__(self, n):
        if n == 20:
            raise OSError("no frame 20")
        return super().__getitem__(n)


def test_an_executor_gives_the_same(fake: Fake) -> None:
    images = Lazy(film(list(range(0, 70, 2)), blank=(4, 17)))
    fixed = np.ones((32, 200))
    fake.astray = {9}
    here = register_series(fixed, images)
    reports: list[float] = []
    with ThreadPoolExecutor(3) as executor:
        there = register_series(
            fixed, images, executor=executor, progress=lambda _, share: reports.append(share)
        )
    assert here.transforms == there.transforms and here.gaps == there.gaps
    assert list(here.gaps) == [4, 17, 20] and "no frame 20" in here.gaps[20]
    np.testing.assert_array_equal(here.drift, there.drift)
    assert reports == sorted(reports) and reports[-1] == 1


def test_frames_whose_worker_died_are_registered_again(fake: Fake) -> None:
    images, fixed = film(list(range(0, 70, 2))), np.ones((32, 200))
    once = iter([True, False, True])

    class Mortal(ThreadPoolExecutor):
        def submit(self, function, *arguments):
            def dies(*arguments):
                raise RuntimeError("a worker died")

            return super().submit(dies if next(once, False) else function, *arguments)

    with Mortal(2) as executor:
        result = register_series(fixed, images, executor=executor)
    assert result.transforms == register_series(fixed, images).transforms
    once = iter([True, True])
    with Mortal(2) as executor, pytest.raises(RuntimeError, match="a worker died"):
        register_series(fixed, images, executor=executor)


def test_a_series_is_cancelled(fake: Fake) -> None:
    cancel = threading.Event()
    with pytest.raises(Cancelled):
        register_series(
            np.ones((32, 200)),
            film([0] * 30),
            cancel=cancel,
            progress=lambda _, share: cancel.set(),
        )
    assert len(fake.calls) == 1


@pytest.mark.parametrize(
    ("fixed", "moving", "message"),
    [
        ((32, 40), (32, 40), r"moving: got shape \(32, 40\), need a series"),
        ((32, 40), (0, 32, 40), "moving: got no frame"),
        ((3, 32, 40), (5, 32, 40), "fixed: got 3 frames for 5 of moving"),
        ((32, 40), (2, 5, 32, 40), "moving: got shape"),
    ],
)
def test_what_is_no_series_is_refused(
    fixed: tuple[int, ...], moving: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        register_series(np.ones(fixed), np.ones(moving))


def test_options_are_those_of_register() -> None:
    with pytest.raises(TypeError, match="register_series has no option 'serach'"):
        register_series(np.ones((32, 40)), np.ones((2, 32, 40)), serach="none")
    with pytest.raises(ValueError, match="search: got 'far'"):
        register_series(np.ones((32, 40)), np.ones((2, 32, 40)), search="far")


def test_a_real_series_with_a_blank_frame() -> None:
    rng, photograph = np.random.default_rng(0), data.camera().astype(float)
    bent = 220 - 200 * (photograph / 255) ** 1.5
    shifts = np.array([(0.5 * n, -1.0 * n + 6 * (n > 4)) for n in range(8)])
    frames = [
        ndimage.shift(bent, shift, order=3)[150:246, 200:296] + rng.normal(0, 3, (96, 96))
        for shift in shifts
    ]
    frames[3] = rng.normal(40, 1, (96, 96))
    images = np.array(frames).clip(0, 255).astype(np.uint8)
    fixed = photograph[150:246, 200:296].astype(np.uint8)
    result = register_series(fixed, images, refine="affine", device="cpu")
    assert list(result.gaps) == [3]
    errors = [
        one.points([48, 48]) - 48 - shift
        for one, shift in zip(result.transforms, shifts, strict=True)
    ]
    assert np.hypot(*np.array(errors).T).max() < 0.5


def test_the_plot_shows_drift_and_scores(fake: Fake) -> None:
    pytest.importorskip("matplotlib")
    import matplotlib

    matplotlib.use("Agg")
    result = register_series(np.ones((32, 200)), film(list(range(8)), blank=(3,)))
    left, right = result.plot()
    assert [line.get_label() for line in left.lines] == ["rows", "columns"]
    assert len(left.patches) == len(right.patches) == 1
    np.testing.assert_allclose(left.lines[1].get_ydata(), range(8), atol=1e-6)


def test_of_several_doubtful_tries_the_best_is_kept(fake: Fake, monkeypatch) -> None:
    """A frame beside the drift is tried from several starts; none of them is reliable."""
    scores = {0: 0.1, 40: 0.4}

    def doubtful(fixed, moving, *, initial, **options):
        found = fake.register(fixed, moving, initial=initial, **options)
        shift = float(initial.affine[1, 2])
        quality = replace(found.quality, reliable=False, score=scores[round(shift)])
        return replace(found, quality=quality)

    monkeypatch.setattr(key_frames, "register", doubtful)
    images = film([7])
    starts = []
    for shift in scores:
        affine = np.eye(3)
        affine[1, 2] = shift
        starts.append(Transform(affine, fixed_shape=(32, 200), moving_shape=(32, 200)))
    series = key_frames.Series([np.ones((32, 200))], images, None, {})
    for order in (starts, starts[::-1]):
        (found,) = key_frames._again(series, 0, order).values()
        assert found.quality.score == 0.4


def test_progress_counts_every_frame_once(fake: Fake) -> None:
    said: list[tuple[str, float]] = []
    register_series(
        np.ones((32, 200)), film([0] * 24), progress=lambda text, share: said.append((text, share))
    )
    shares = [share for _, share in said]
    assert shares == sorted(shares) and shares[-1] == 1
    assert len({round(24 * share) for share in shares}) >= 20
    assert any(text.startswith("frame 12 of 24") for text, _ in said)
