"""What results show of themselves: `repr`, HTML for notebooks, and plots."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import napari_busref as nb
from napari_busref.registration.quality import Evidence, Quality

PLAIN = {"model": "identity", "device": "cpu"}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, shape, dtype=np.uint8)


def quality(**changes: Any) -> Quality:
    plain = Quality(
        score=0.97,
        reliable=True,
        reasons=(),
        overlap=0.9,
        min_jacobian=1.0,
        edge_agreement=0.4,
        edge_agreement_before=0.1,
        shift_px=12.34,
        rotation_deg=-3.21,
        scale=1.0456,
    )
    return dataclasses.replace(plain, **changes)


def pictures(html: str) -> list[np.ndarray]:
    """The pictures inside the HTML; nothing may be fetched."""
    sources = re.findall(r"src='([^']+)'", html)
    assert all(one.startswith("data:image/png;base64,") for one in sources)
    assert "http" not in html and "<script" not in html
    found = [Image.open(io.BytesIO(base64.b64decode(one.split(",")[1]))) for one in sources]
    assert all(one.format == "PNG" and max(one.size) <= 256 for one in found)
    return [np.asarray(one.convert("RGB")) for one in found]


@pytest.fixture(scope="module")
def both() -> nb.RegistrationAndFusionResult:
    return nb.register_and_fuse(
        noise(48, 64, 3), noise(30, 40, seed=1), fusion_model="average", **PLAIN
    )


def test_the_preview_keeps_the_grey_values() -> None:
    image = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))
    preview = nb.register(image, image, **PLAIN).preview
    assert preview is not None
    np.testing.assert_allclose(preview.fixed, image, atol=4)
    np.testing.assert_array_equal(preview.before, preview.fixed)


# -- repr --------------------------------------------------------------------------------------


def test_repr_says_verdict_shape_and_pixels() -> None:
    assert repr(quality()) == (
        "<Quality: The registration looks right; score 0.97, overlap 90%, shift 12.3 px, "
        "rotation -3.2°, scale 1.046>"
    )
    doubtful = quality(score=0.3, reliable=False, reasons=("little overlap",))
    assert repr(doubtful).startswith(
        "<Quality: Check the result, it may be wrong (little overlap); score 0.30"
    )
    rejected = quality(reliable=False, reasons=("no texture",), status="not registered")
    assert repr(rejected).startswith("<Quality: Nothing was found (no texture)")


def test_repr_of_a_pair(both: nb.RegistrationAndFusionResult) -> None:
    verdict = both.registration.quality.verdict
    score = f"score {both.registration.quality.score:.2f}"
    assert repr(both.registration).startswith(
        f"<RegistrationResult: {verdict}; (48, 64) uint8, {score}, overlap 93%, shift 0.0 px"
    )
    assert repr(both.fusion) == "<FusionResult: (48, 64, 3) uint8, model average>"
    assert verdict in repr(both) and score in repr(both) and "model average" in repr(both)
    assert "nothing fused" in repr(dataclasses.replace(both, fusion=None))


def test_repr_of_transforms_and_files(tmp_path: Path) -> None:
    bend = np.zeros((2, 20, 30), np.float32)
    bend[:, 3, 4] = 3, 4
    shift = [[1, 0, 2.5], [0, 1, -7], [0, 0, 1]]
    transform = nb.Transform(shift, bend, fixed_shape=(20, 30), moving_shape=(40, 50))
    assert repr(transform) == (
        "<Transform: fixed (20, 30), moving (40, 50); affine [1, 0, 2.5], [0, 1, -7]; "
        "displacement up to 5.0 px>"
    )
    assert repr(nb.Transform.identity((2, 2))).endswith("no displacement>")
    grid = nb.ImageGrid((20, 30), spacing=(0.5, 1 / 3), unit="µm")
    assert repr(grid) == "ImageGrid((20, 30), spacing=(0.5, 0.333333), unit='micrometer')"
    path = nb.write_transform(
        tmp_path / "a.busref.h5", transform, fixed=grid, moving=nb.ImageGrid((40, 50))
    )
    assert repr(nb.read_transform(path)).startswith(
        "<TransformFile: fixed (20, 30) of 0.5 x 0.3333 micrometer, moving (40, 50) of 1 x 1 pixel"
    )
    nb.write_image(tmp_path / "a.tif", noise(20, 30), metadata={"spacing": (2, 3), "unit": "cm"})
    assert repr(nb.read_image(tmp_path / "a.tif")).startswith("<ImageFile: (20, 30) uint8")
    points = np.array([(0, 0), (0, 9), (9, 0), (9, 9), (4, 5)], float)
    fit = nb.fit_landmarks(points, points + 2, fixed_shape=(20, 30), moving_shape=(20, 30))
    assert repr(fit).startswith("<LandmarkFit: affine of 5 pairs, rms 0.00 px")


def long_ones(both: nb.RegistrationAndFusionResult) -> list[Any]:
    reasons = tuple(f"reason {number} that takes many words to explain" for number in range(9))
    numbers = quality(
        reliable=False, reasons=reasons, shift_px=123456.78, rotation_deg=-179.9, scale=1234.567
    )
    big = nb.Transform(
        np.array([[1 / 3, -12345.678, 1e6 / 7], [1e-6 / 3, 98765.432, -1e6 / 7], [0, 0, 1]]),
        np.full((2, 30000, 1), 1e5, np.float32),
        fixed_shape=(30000, 1),
        moving_shape=(30000, 30000),
    )
    grid = nb.ImageGrid(
        (30000, 30000),
        spacing=(1e-5 / 3, 1e-5 / 7),
        origin=(-1e6 / 3, -1e6 / 7),
        direction=((-np.cos(1), -np.sin(1)), (-np.sin(1), np.cos(1))),
        unit="micrometer",
    )
    assert both.fusion is not None
    file_name = "/a/very/long/folder" * 20 + "/weights.safetensors"
    fusion = dataclasses.replace(both.fusion, parameters={"model": file_name})
    registration = dataclasses.replace(both.registration, quality=numbers)
    return [
        numbers,
        registration,
        fusion,
        nb.RegistrationAndFusionResult(registration, fusion),
        big,
        grid,
        nb.TransformFile(big, grid, grid, {"quality": dict.fromkeys(map(str, range(99)))}),
        Evidence(0.5, np.inf, 1e6, "search 11 of 12", dict.fromkeys(map(str, range(99)), 0.5)),
        nb.load_sample("thermal"),
        nb.read_image.__globals__["ImageFile"](
            np.zeros((3000, 4000), np.float32),
            {"spacing": (1 / 3, 1 / 7), "unit": "micrometer", "thermal": dict.fromkeys("abcdef")},
            taken="band 12 of 128",
        ),
    ]


def test_repr_is_short_whatever_a_result_holds(both: nb.RegistrationAndFusionResult) -> None:
    for value in long_ones(both):
        assert len(repr(value)) <= 200, repr(value)
        assert "\n" not in repr(value) and "array(" not in repr(value)


# -- HTML --------------------------------------------------------------------------------------


def test_html_has_the_verdict_its_reasons_and_pictures(
    both: nb.RegistrationAndFusionResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    said = quality(reliable=False, reasons=("the images <b>hardly</b> overlap",), overlap=0.05)
    html = dataclasses.replace(both.registration, quality=said)._repr_html_()
    assert "<b>Check the result, it may be wrong</b>" in html
    assert "the images &lt;b&gt;hardly&lt;/b&gt; overlap" in html
    assert "overlap 5%" in html and "score 0.97" in html
    before, after = pictures(html)
    assert before.shape == after.shape == (48, 64, 3)
    (fused,) = pictures(both.fusion._repr_html_())  # type: ignore[union-attr]
    assert fused.shape == (48, 64, 3)
    assert len(pictures(both._repr_html_())) == 3
    assert len(pictures(dataclasses.replace(both, fusion=None)._repr_html_())) == 2


def test_the_picture_after_shows_the_pair_aligned() -> None:
    fixed = np.zeros((60, 80), np.uint8)
    fixed[20:40, 30:50] = 200
    start = nb.Transform(
        [[1, 0, 10], [0, 1, 0], [0, 0, 1]], fixed_shape=(60, 80), moving_shape=(60, 80)
    )
    result = nb.register(fixed, np.roll(fixed, 10, 0), search="none", **PLAIN)
    moved = nb.register(fixed, np.roll(fixed, 10, 0), search="none", initial=start, **PLAIN)
    for one, row, colour in ((result, 22, (0, 155, 255)), (moved, 22, (255, 255, 255))):
        _, after = pictures(one._repr_html_())
        np.testing.assert_allclose(after[row, 40], colour, atol=60)


def test_html_of_noise_is_bounded() -> None:
    large = nb.register(noise(900, 1300, 3), noise(900, 1300, seed=1), **PLAIN)
    html = large._repr_html_()
    before, after = pictures(html)
    assert before.shape == after.shape == (177, 256, 3)
    assert len(html) < 200_000
    assert large.preview is not None and max(large.preview.fixed.shape) <= 1024


@pytest.mark.parametrize(
    ("fixed", "moving"),
    [
        (np.full((20, 30), 7, np.uint8), noise(20, 30)),
        (noise(16, 3000), noise(3000, 16)),
        (noise(20, 30, 4), np.ma.masked_less(noise(20, 30), 100)),
        (noise(20, 30) > 99, noise(20, 30).astype(np.float64) * 1e30),
        (noise(1300, 16), noise(40, 40, 3).astype(np.uint16) * 257),
    ],
    ids=["constant", "elongated", "masked", "bool and huge", "reduced"],
)
def test_any_pair_has_html_and_plots(fixed: Any, moving: Any) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="needs napari-busref[plot]")
    result = nb.register_and_fuse(fixed, moving, fusion_model="average", **PLAIN)
    assert len(pictures(result._repr_html_())) == 3
    assert len(repr(result)) <= 200 and len(repr(result.registration)) <= 200
    assert len(result.registration.plot()) == 4
    pyplot.close("all")


def test_a_result_without_overlap_shows_no_orange_after() -> None:
    away = nb.Transform(
        [[1, 0, 900], [0, 1, 0], [0, 0, 1]], fixed_shape=(20, 30), moving_shape=(20, 30)
    )
    floats = noise(20, 30, seed=1).astype(np.float32)
    result = nb.register(noise(20, 30), floats, initial=away, **PLAIN)
    assert np.isnan(result.warped).all()
    _, after = pictures(result._repr_html_())
    assert after[..., 0].max() < 20  # no orange


# -- plots -------------------------------------------------------------------------------------


@pytest.fixture
def pyplot(monkeypatch: pytest.MonkeyPatch) -> Any:
    matplotlib = pytest.importorskip("matplotlib", reason="needs napari-busref[plot]")
    matplotlib.use("agg")
    from matplotlib import pyplot

    monkeypatch.setattr(pyplot, "show", lambda *_: pytest.fail("shown"))
    yield pyplot
    pyplot.close("all")


def test_plot_returns_axes_of_a_new_figure_in_fixed_pixels(
    both: nb.RegistrationAndFusionResult, pyplot: Any
) -> None:
    axes = both.registration.plot()
    assert [one.get_title().split(":")[0] for one in axes] == [
        "before",
        "after",
        "edges of both images",
        "displacement",
    ]
    assert len({one.figure for one in axes}) == 1
    for one in axes:
        assert (one.get_xlim(), one.get_ylim()) == ((-0.5, 63.5), (47.5, -0.5))
    axes[0].figure.savefig(io.BytesIO())
    assert len(both.plot()) == 4 and both.plot("fused")[0].get_title() == "fused"
    assert len(both.fusion.plot()) == 1  # type: ignore[union-attr]


def test_plot_draws_where_it_is_asked_to(
    both: nb.RegistrationAndFusionResult, pyplot: Any
) -> None:
    _, (left, right) = pyplot.subplots(1, 2)
    assert both.registration.plot(("after", "edges"), axes=[left, right])[1] is right
    assert both.registration.plot("after", axes=left)[0] is left
    assert len(pyplot.get_fignums()) == 1


def test_the_field_has_the_displacement_in_fixed_pixels(pyplot: Any) -> None:
    # the moving image has half the pixels; its content lies 6 fixed pixels further down
    start = nb.Transform(
        [[0.5, 0, 3], [0, 0.5, 0], [0, 0, 1]], fixed_shape=(64, 80), moving_shape=(32, 40)
    )
    equal = nb.Transform(
        [[0.5, 0, 0], [0, 0.5, 0], [0, 0, 1]], fixed_shape=(64, 80), moving_shape=(32, 40)
    )
    result = nb.register(noise(64, 80), noise(32, 40, seed=1), initial=equal, **PLAIN)
    result = dataclasses.replace(result, transform=start)
    (axes,) = result.plot("field")
    assert axes.get_title() == "displacement: up to 6.0 px"
    (arrows,) = axes.collections
    np.testing.assert_allclose(arrows.V, 6, atol=1e-6)
    np.testing.assert_allclose(arrows.U, 0, atol=1e-6)


def test_a_transform_draws_the_fixed_grid_on_the_moving_image(pyplot: Any) -> None:
    shift = nb.Transform(
        [[1, 0, 5], [0, 1, -2], [0, 0, 1]], fixed_shape=(13, 25), moving_shape=(40, 50)
    )
    axes = shift.plot()
    first = axes.lines[0]
    np.testing.assert_allclose(first.get_ydata(), 5)
    np.testing.assert_allclose((first.get_xdata().min(), first.get_xdata().max()), (-2, 22))
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # rows point down
    assert nb.Transform.identity((1, 1)).plot(axes=axes) is axes


def test_plots_refuse_what_they_cannot_draw(
    both: nb.RegistrationAndFusionResult, pyplot: Any
) -> None:
    with pytest.raises(ValueError, match="views: got 'later', need some of 'before', 'after'"):
        both.registration.plot("later")
    with pytest.raises(ValueError, match=r"views: got \[\], need some of"):
        both.registration.plot([])
    with pytest.raises(ValueError, match="axes: got 1, need 4"):
        both.registration.plot(axes=pyplot.subplots()[1])
    with pytest.raises(TypeError, match="axes: got int, need matplotlib's Axes"):
        both.registration.plot("after", axes=3)
    with pytest.raises(ValueError, match="got 'fused', but nothing was fused"):
        dataclasses.replace(both, fusion=None).plot("fused")
    with pytest.raises(ValueError, match="holds no preview"):
        dataclasses.replace(both.registration, preview=None).plot()


def test_without_matplotlib_the_error_names_the_extra(
    both: nb.RegistrationAndFusionResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    transform = both.registration.transform
    for plot in (both.plot, both.registration.plot, both.fusion.plot, transform.plot):  # type: ignore[union-attr]
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'napari-busref\[plot\]'"):
            plot()
