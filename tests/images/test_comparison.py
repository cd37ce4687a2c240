"""Pictures, scores and layers of "Compare", without Qt."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from skimage.color import rgb2lab

from napari_busref.data.samples import thermal_scene
from napari_busref.images.comparison import (
    FIXED_COLOUR,
    MODES,
    MOVING_COLOUR,
    Swipe,
    checkerboard,
    compare,
    difference,
    edge_overlay,
    edges,
    overlay,
    stretch,
)
from napari_busref.metrics.alignment import ALIGNMENT_METRICS, alignment_scores, end_point_error
from napari_busref.transforms.transform import Transform

SHAPE = (40, 60)


def noise(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)


def blob(row=20, col=30, shape=SHAPE):
    rows, cols = np.indices(shape)
    return np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / 50).astype(np.float32)


# -- pictures ---------------------------------------------------------------------------------


def test_the_squares_of_a_checkerboard():
    first, second = noise(seed=1), noise(seed=2)
    picture = checkerboard(first, second, 8)
    np.testing.assert_array_equal(picture[:8, :8], first[:8, :8])
    np.testing.assert_array_equal(picture[:8, 8:16], second[:8, 8:16])
    np.testing.assert_array_equal(picture[8:16, :8], second[8:16, :8])
    np.testing.assert_array_equal(picture[8:16, 8:16], first[8:16, 8:16])
    np.testing.assert_array_equal(checkerboard(first, second, 100), first)
    with pytest.raises(ValueError, match="tile: got 0"):
        checkerboard(first, second, 0)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("line", [0, 1, 4])
def test_a_curtain_is_the_same_whatever_its_way_there(axis, line):
    first, second = noise(seed=1), noise(seed=2)
    swipe = Swipe(first, second, 0.3, axis=axis, line=line)
    for position in (0.5, 0.52, 0.0, 1.0, 0.98, 0.1, 0.1, -3, 7, 0.6):
        before = swipe.picture.copy()
        written = swipe.move(position)
        whole = Swipe(first, second, position, axis=axis, line=line)
        np.testing.assert_array_equal(swipe.picture, whole.picture)
        assert swipe.position == whole.position
        changed = (swipe.picture != before).any(axis=(1 - axis, 2))
        outside = np.ones(len(changed), bool)
        outside[written] = False
        assert not changed[outside].any()
    edge = round(0.6 * SHAPE[axis])
    left, right = swipe.picture.swapaxes(0, axis), second.swapaxes(0, axis)
    np.testing.assert_array_equal(left[: edge - 2], first.swapaxes(0, axis)[: edge - 2])
    np.testing.assert_array_equal(left[edge + 4 :], right[edge + 4 :])


def test_moving_a_curtain_writes_only_what_the_edge_passes():
    swipe = Swipe(noise(), noise(seed=1), 0.5, line=2)
    written = swipe.move(0.55)
    assert written.stop - written.start <= 3 + 2 * 2
    written = swipe.move(0.55)
    assert written.stop - written.start <= 2


def test_a_curtain_at_its_ends_shows_one_picture_whole():
    first, second = noise(seed=1), noise(seed=2)
    np.testing.assert_array_equal(Swipe(first, second, 0.0, line=3).picture, second)
    np.testing.assert_array_equal(Swipe(first, second, 1.0, line=3).picture, first)


def test_bad_curtains_are_refused():
    with pytest.raises(ValueError, match="axis: got 2"):
        Swipe(noise(), noise(), axis=2)
    with pytest.raises(ValueError, match="second: got shape"):
        Swipe(noise(), noise((8, 8)))
    with pytest.raises(ValueError, match="line: got -1"):
        Swipe(noise(), noise(), line=-1)


FIXED, MOVING = (
    tuple(int(name[at : at + 2], 16) for at in (1, 3, 5)) for name in (FIXED_COLOUR, MOVING_COLOUR)
)

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
COLOUR_BLIND = {
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}


def seen(colour, vision):
    """Lab of a colour as someone with a colour blindness sees it."""
    srgb = np.array(colour) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(COLOUR_BLIND[vision]) @ linear, 0, 1)
    back = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb2lab(back)


@pytest.mark.parametrize("vision", COLOUR_BLIND)
def test_the_colours_of_overlays_are_told_apart_by_red_green_blind_people(vision):
    def distance(one, other):
        return np.linalg.norm(seen(one, vision) - seen(other, vision))

    both, dim = (255, 255, 255), tuple(value // 4 for value in FIXED)
    assert distance(FIXED, MOVING) > 100
    assert min(distance(colour, both) for colour in (FIXED, MOVING)) > 50
    assert distance(dim, tuple(value // 4 for value in MOVING)) > 30  # weak edges
    assert distance((220, 0, 0), (0, 160, 0)) < 40  # a pair that is not
    faint = overlay(*(np.full((1, 1), value, np.float32) for value in (0.6, 0.4)))[0, 0]
    assert distance(tuple(faint), (127, 127, 127)) > 10


def test_the_overlay_is_grey_where_images_agree():
    image = blob()
    picture = overlay(image, image)
    assert (picture == picture[..., :1]).all()
    red, green, blue = overlay(image, 0 * image)[20, 30]
    assert (red, green, blue) == FIXED
    assert tuple(overlay(0 * image, image)[20, 30]) == MOVING
    levels = np.arange(256, dtype=np.float32)[None] / np.float32(255)
    assert (overlay(levels, levels) == np.arange(256)[None, :, None]).all()


def test_edges_are_blue_orange_and_white_where_they_coincide():
    everywhere = np.ones(SHAPE, bool)
    image = blob()
    ring = edges(image, everywhere)
    assert ring.dtype == np.float32
    assert 0.99 < ring.max() <= 1.0
    assert ring[20, 30] < 0.05 < 0.5 < ring[20, 35]  # the top has no slope, the flank has
    picture = edge_overlay(ring, ring)
    assert (picture == picture[..., :1]).all() and picture.max() == 255
    shifted = edge_overlay(ring, edges(blob(col=10), everywhere))
    assert shifted[20, 35, 2] > 127 > shifted[20, 35, 0]
    assert shifted[20, 15, 0] > 127 > shifted[20, 15, 2]
    with pytest.raises(ValueError, match="sigma: got 0"):
        edges(image, everywhere, 0)


def test_the_border_of_the_content_is_no_edge():
    image, valid = 0.4 + 0.5 * blob(), np.ones(SHAPE, bool)
    valid[:, :20] = False
    image[~valid] = 0
    salient = edges(image, valid)
    assert not salient[:, :22].any()
    assert salient.max() > 0.9
    flat = np.full(SHAPE, 0.5, np.float32)
    assert not edges(flat, np.ones(SHAPE, bool)).any()


def test_the_difference_is_white_red_and_blue():
    low, high = np.zeros(SHAPE, np.float32), np.ones(SHAPE, np.float32)
    everywhere = np.ones(SHAPE, bool)
    assert tuple(difference(low, low, everywhere)[0, 0]) == (255, 255, 255)
    assert tuple(difference(low, high, everywhere)[0, 0]) == (255, 0, 0)
    assert tuple(difference(high, low, everywhere)[0, 0]) == (0, 0, 255)
    red, green, blue = difference(low, 0.5 * high, everywhere)[0, 0]
    assert red == 255
    assert green == blue == 128
    nothing = difference(low, high, ~everywhere)[0, 0]
    assert nothing[0] == nothing[1] == nothing[2] < 100


def test_stretching_fills_the_range():
    grey, valid = stretch(50 + (20 * blob()).astype(np.uint8), "image")
    assert (grey.min(), grey.max()) == (0, 1)
    assert valid.all()
    image = blob()
    image[:5] = np.nan
    grey, valid = stretch(image, "image")
    assert np.isfinite(grey).all()
    assert not valid[:5].any()
    assert valid[5:].all()
    assert not stretch(np.full(SHAPE, 7, np.int16), "image")[0].any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [bool, np.uint8, ">u2", np.int32, np.float64])
def test_every_mode_takes_every_type(mode, dtype):
    image = (blob(10, 20) > 0.5) if dtype is bool else (200 * blob(10, 20)).astype(dtype)
    colour = np.repeat(image[..., None], 4, -1)
    colour[..., 3] = True if dtype is bool else 255
    for one, other in ((image, colour[::-1, ::-1]), (colour[::-1, ::-1], image)):
        picture = compare(one, other, mode)
        assert picture.dtype == np.uint8
        assert picture.shape == (*SHAPE, 3)
        assert np.ptp(picture) > 0


def test_without_content_the_tested_image_is_black():
    mask = np.ones(SHAPE, bool)
    mask[:, 30:] = False
    picture = compare(noise(), noise(seed=1), "swipe", mask=mask, position=0.0)
    assert not picture[:, 30:].any()
    assert picture[:, :30].any()
    assert not compare(noise(), noise(seed=1), "overlay", mask=mask)[:, 30:, 0].any()


def test_images_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match=r"moving: got \(8, 8\) pixels, need the size"):
        compare(noise(), noise((8, 8)))
    with pytest.raises(ValueError, match="mode: got 'flicker', need one of checkerboard"):
        compare(noise(), noise(), "flicker")
    with pytest.raises(ValueError, match="moving: all pixels are NaN"):
        compare(noise(), np.full(SHAPE, np.nan))
    with pytest.raises(TypeError, match="moving: got dtype complex"):
        compare(noise(), np.zeros(SHAPE, complex))


# -- scores -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene():
    return thermal_scene(shape=(96, 128))


def test_scores_rise_when_the_images_fit(scene):
    start = Transform.identity(scene.aligned.shape)
    area = scene.truth.mask()
    scores = []
    for transform in (start, scene.truth):
        warped, mask = transform.apply(scene.moving), transform.mask()
        found = alignment_scores(
            scene.fixed, warped, mask=mask, truth=scene.aligned, truth_mask=area
        )
        scores.append(found | {"epe": end_point_error(transform, scene.truth)})
    before, after = scores
    assert list(after) == list(ALIGNMENT_METRICS)
    for name in ("nmi", "edge_agreement", "mncc", "mmse", "epe"):
        assert (after[name] > before[name]) == ALIGNMENT_METRICS[name].higher_is_better, name
    assert after["mncc"] > 0.95
    assert after["epe"] < 1e-3
    assert before["epe"] > 2


def test_the_scores_of_equal_images_are_known():
    image = np.random.default_rng(0).random(SHAPE)
    scores = alignment_scores(image, image, truth=image)
    assert scores["nmi"] == pytest.approx(2)
    assert scores["ncc"] == pytest.approx(1)
    assert scores["edge_agreement"] == pytest.approx(1)
    assert scores["mncc"] == pytest.approx(1)
    assert scores["mmse"] == 0
    inverted = alignment_scores(image, 1 - image)
    assert inverted["ncc"] == pytest.approx(-1)
    assert inverted["nmi"] == pytest.approx(2)
    assert "mncc" not in inverted


def test_the_error_against_the_truth_is_on_the_scale_of_the_truth():
    # 12 bits in 16: the range of the truth scales both images to [0, 1]
    truth = np.linspace(0, 4000, SHAPE[0] * SHAPE[1]).reshape(SHAPE).astype(np.uint16)
    darker = (truth // 2).astype(np.uint16)
    scores = alignment_scores(truth, darker, truth=truth)
    expected = np.mean((0.5 * np.linspace(0, 1, truth.size)) ** 2)
    assert scores["mmse"] == pytest.approx(expected, rel=0.02)
    assert scores["mncc"] == pytest.approx(1, abs=1e-3)


def test_what_cannot_be_scored_is_nan_or_refused():
    flat = np.full(SHAPE, 9, np.uint8)
    scores = alignment_scores(noise(), flat)
    assert np.isnan(scores["nmi"])
    assert np.isnan(scores["ncc"])
    assert np.isnan(scores["edge_agreement"])
    mask = np.zeros(SHAPE, bool)
    mask[0, 0] = True
    with pytest.raises(ValueError, match="warped: overlaps 1 valid pixels"):
        alignment_scores(noise(), noise(), mask=mask)
    with pytest.raises(ValueError, match=r"truth: got \(8, 8\) pixels, need the size"):
        alignment_scores(noise(), noise(), truth=noise((8, 8)))


def test_the_end_point_error_of_a_shift_is_its_length():
    truth = Transform.identity(SHAPE)
    matrix = np.eye(3)
    matrix[:2, 2] = 3, -4
    shift = Transform(matrix, fixed_shape=SHAPE, moving_shape=SHAPE)
    assert end_point_error(shift, truth) == pytest.approx(5)
    assert np.isnan(end_point_error(shift, truth, np.zeros(SHAPE, bool)))
    with pytest.raises(ValueError, match="truth: got fixed_shape"):
        end_point_error(shift, Transform.identity((9, 9)))


def test_pictures_and_scores_load_neither_torch_nor_napari():
    code = (
        "import sys, napari_busref.images.comparison, napari_busref.metrics.alignment;"
        "print([m for m in ('torch', 'napari', 'qtpy') if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=_environment(),
    ).stdout
    assert output.strip() == "[]"


def _environment():
    import os
    from pathlib import Path

    import napari_busref

    return {**os.environ, "PYTHONPATH": str(Path(napari_busref.__file__).parents[1])}


# -- layers, without Qt -----------------------------------------------------------------------

KEY = "napari-busref"
PLACED = {
    "scale": (0.5, 0.25),
    "translate": (10.0, -4.0),
    "rotate": 20.0,
    "shear": [0.1],
    "units": ("um", "um"),
}


def viewer_of(*layers):
    pytest.importorskip("napari")
    from napari.components import ViewerModel

    viewer = ViewerModel()
    for layer in layers:
        viewer.add_layer(layer)
    return viewer


def registered(shift=(2.0, -3.0), **placed):
    """A viewer with a fixed, a moving and a warped layer, of a known transform."""
    napari_layers = pytest.importorskip("napari.layers")
    moving = noise(seed=1)[..., 0]
    displacement = np.empty((2, *SHAPE), np.float32)
    displacement[0], displacement[1] = shift
    transform = Transform(np.eye(3), displacement, fixed_shape=SHAPE, moving_shape=SHAPE)
    known = {
        "role": "warped",
        "fixed": "vis",
        "moving": "ir",
        "transform": transform,
        "initial": Transform.identity(SHAPE),
    }
    return viewer_of(
        napari_layers.Image(noise(), rgb=True, name="vis", **placed),
        napari_layers.Image(moving, name="ir", **placed),
        napari_layers.Image(
            transform.apply(moving), name="ir warped", metadata={KEY: known}, **placed
        ),
    )


def find(viewer, truth=None):
    from napari_busref._napari.compare.source import find_comparison

    return find_comparison(viewer, viewer.layers["vis"], viewer.layers["ir warped"], truth)


def read(side, region):
    from napari_busref._napari.compare.pixels import Pixels

    return Pixels.read(side, region, threading.Event())


def whole(viewer, comparison):
    from napari_busref._napari.compare.pixels import choose_region

    return choose_region(comparison.fixed.plane)


def test_the_warped_layer_and_its_reference_are_guessed():
    from napari_busref._napari.compare.source import comparable_images, guess_layers

    viewer = registered()
    layers = viewer.layers
    assert guess_layers(layers) == (layers["vis"], layers["ir warped"])
    layers.remove("ir warped")
    assert guess_layers(layers) == (layers["vis"], layers["ir"])
    viewer.add_image(noise(), metadata={KEY: {"role": "comparison"}}, name="comparison")
    assert layers["comparison"] not in comparable_images(layers)
    assert guess_layers([]) == (None, None)


@pytest.mark.parametrize("placed", [{}, PLACED])
def test_sides_are_read_on_the_grid_of_the_reference(placed):
    viewer = registered(**placed)
    comparison = find(viewer)
    region = whole(viewer, comparison)
    assert region.whole
    layers = viewer.layers
    np.testing.assert_array_equal(read(comparison.fixed, region).image, layers["vis"].data)
    after = read(comparison.after, region)
    np.testing.assert_array_equal(after.image, layers["ir warped"].data)
    transform = layers["ir warped"].metadata[KEY]["transform"]
    np.testing.assert_array_equal(after.mask, transform.mask())
    assert comparison.before is not None
    np.testing.assert_array_equal(read(comparison.before, region).image, layers["ir"].data)


def test_a_moving_layer_is_brought_over_through_the_world():
    napari_layers = pytest.importorskip("napari.layers")
    from napari_busref._napari.compare.pixels import choose_region
    from napari_busref._napari.compare.source import find_comparison

    fine = np.repeat(np.repeat(noise()[..., 0], 2, 0), 2, 1)
    viewer = viewer_of(
        napari_layers.Image(noise(), rgb=True, name="vis", scale=(2, 2), units=("um", "um")),
        # half the pixel size, in other units, and one fixed pixel further down
        napari_layers.Image(
            fine, name="ir", scale=(1e-3, 1e-3), translate=(1.5e-3, -0.5e-3), units=("mm", "mm")
        ),
    )
    comparison = find_comparison(viewer, viewer.layers["vis"], viewer.layers["ir"])
    pixels = read(comparison.after, choose_region(comparison.fixed.plane))
    np.testing.assert_array_equal(pixels.image[1:], noise()[:-1, :, 0])
    assert not pixels.mask[0].any()
    assert comparison.before is None
    assert "not made by" in comparison.no_before


def test_large_planes_are_read_coarsely_or_in_part():
    napari_layers = pytest.importorskip("napari.layers")
    import dask.array as da

    from napari_busref._napari.compare.pixels import choose_region, layer_on_region
    from napari_busref._napari.compare.source import find_comparison

    reads = []

    def block(block_info=None):
        location = block_info[None]["array-location"]
        reads.append(location)
        rows, cols = (np.arange(*region) for region in location)
        return (rows[:, None] + cols).astype(np.float32)

    def lazy(side):
        return da.map_blocks(
            block, chunks=((64,) * (side // 64),) * 2, dtype=np.float32, meta=np.empty((0, 0))
        )

    levels = [lazy(1024), lazy(256)]
    viewer = viewer_of(
        napari_layers.Image(levels, name="vis", multiscale=True, contrast_limits=(0, 1)),
        napari_layers.Image(lazy(1024), name="ir", contrast_limits=(0, 2048), visible=False),
    )
    comparison = find_comparison(viewer, viewer.layers["vis"], viewer.layers["ir"])
    plane = comparison.fixed.plane
    coarse = choose_region(plane, pixels=256 * 256)
    assert (coarse.level, coarse.step, coarse.shape) == (1, 1, (256, 256))
    assert not coarse.whole
    pixels = read(comparison.after, coarse)
    rows, cols = np.indices((256, 256))
    np.testing.assert_allclose(pixels.image, 4 * (rows + cols) + 3, atol=0.1)

    coarser = choose_region(plane, pixels=100 * 100)
    assert (coarser.level, coarser.step, coarser.shape) == (1, 3, (85, 85))

    reads.clear()
    window = (slice(512, 640), slice(256, 320))
    region = choose_region(plane, window, pixels=256 * 256)
    assert (region.level, region.window) == (0, window)
    first = read(comparison.fixed, region).image
    np.testing.assert_array_equal(first, np.add.outer(np.arange(512, 640), np.arange(256, 320)))
    np.testing.assert_array_equal(read(comparison.after, region).image, first)
    assert len(reads) == 2 * 2  # only chunks inside the window, of both layers
    _, spatial = layer_on_region(np.zeros((128, 64, 3), np.uint8), plane, region)
    np.testing.assert_allclose(spatial["translate"], (512, 256))
    _, spatial = layer_on_region(np.zeros((256, 256, 3), np.uint8), plane, coarse)
    np.testing.assert_allclose(spatial["translate"], (1.5, 1.5))
    np.testing.assert_allclose(spatial["scale"], (4, 4))


def test_layers_keep_their_colours():
    napari_layers = pytest.importorskip("napari.layers")
    from napari_busref._napari.compare.pixels import choose_region
    from napari_busref._napari.compare.source import find_comparison

    grey = np.array([[0, 100], [200, 300]], np.uint16).repeat(20, 0).repeat(20, 1)
    viewer = viewer_of(
        napari_layers.Image(noise((40, 40)), rgb=True, name="vis"),
        napari_layers.Image(grey, name="ir", colormap="green", contrast_limits=(100, 200)),
    )
    comparison = find_comparison(viewer, viewer.layers["vis"], viewer.layers["ir"])
    region = choose_region(comparison.fixed.plane)
    picture = read(comparison.after, region).coloured
    assert [tuple(picture[row, col]) for row in (0, 30) for col in (0, 30)] == [
        (0, 0, 0),
        (0, 0, 0),
        (0, 255, 0),
        (0, 255, 0),
    ]
    reference = read(comparison.fixed, region)
    np.testing.assert_array_equal(reference.coloured, noise((40, 40)))
    assert (reference.uncoloured == reference.uncoloured[..., :1]).all()


def test_an_empty_strip_beside_the_covered_area_is_no_content():
    viewer = registered()
    warped = viewer.layers["ir warped"]
    covered = warped.metadata[KEY]["transform"].mask()
    assert not covered[-2:].any()  # the content comes from two rows below
    data = np.maximum(warped.data, 1)
    data[-4:] = 0  # two rows are empty in the moving image already
    data[:10, 3:5] = 0  # dark, but within the picture
    data[10:20, 20:30] = 0
    warped.data = data
    comparison = find(viewer)
    valid = read(comparison.after, whole(viewer, comparison)).valid
    assert not valid[-4:].any()
    assert valid[10:20, 20:30].all()
    assert valid[-5, 5:].all()
    assert read(comparison.fixed, whole(viewer, comparison)).valid.all()


def test_what_is_known_about_the_truth():
    viewer = registered()
    comparison = find(viewer)
    assert comparison.truth is None
    assert comparison.true_transform is None
    true = Transform.identity(SHAPE)
    viewer.layers["ir"].metadata[KEY] = {"truth": true}
    comparison = find(viewer)
    assert comparison.true_transform == true
    np.testing.assert_array_equal(
        read(comparison.truth, whole(viewer, comparison)).image, viewer.layers["ir"].data
    )
    image = viewer.add_image(noise(seed=5)[..., 0], name="truth")
    comparison = find(viewer, image)
    np.testing.assert_array_equal(
        read(comparison.truth, whole(viewer, comparison)).image, image.data
    )
    carrier = viewer.add_points(metadata={KEY: {"transform": true}})
    assert find(viewer, carrier).true_transform == true
    with pytest.raises(ValueError, match="truth: layer 'places' is no image"):
        find(viewer, viewer.add_points(name="places"))


def test_sides_that_cannot_be_compared_are_refused():
    from napari_busref._napari.compare.source import find_comparison

    viewer = registered()
    layers = viewer.layers
    with pytest.raises(ValueError, match="choose two different layers"):
        find_comparison(viewer, layers["vis"], layers["vis"])
    layers["ir"].translate = (1000, 0)
    with pytest.raises(ValueError, match="do not overlap"):
        find_comparison(viewer, layers["vis"], layers["ir"])
    assert find(viewer).before is not None  # wherever the layer lies now
    layers.remove("ir")
    comparison = find(viewer)
    assert comparison.before is None
    assert "'ir' is not there any more" in comparison.no_before


def test_measuring_before_and_after(tmp_path):
    pytest.importorskip("napari")
    from napari_busref._napari.compare.metrics import measure

    viewer = registered()
    known = viewer.layers["ir warped"].metadata[KEY]
    viewer.layers["ir"].metadata[KEY] = {"truth": known["transform"]}
    stages = []
    found = measure(
        find(viewer),
        progress=lambda stage, fraction: stages.append(stage),
        cancel=threading.Event(),
    )
    assert set(found.after) == set(ALIGNMENT_METRICS)
    assert found.after["epe"] == pytest.approx(0, abs=1e-4)
    assert found.before["epe"] == pytest.approx(np.hypot(2, 3), abs=1e-4)
    assert found.after["mmse"] == pytest.approx(0)
    assert found.better("epe")
    assert found.better("mncc")
    assert stages[0] == "reading the layers"
    rows = found.save(tmp_path / "table.csv").read_text().splitlines()
    assert rows[0].startswith("metric,before,after,higher_is_better,rows,columns,reference_layer")
    assert len(rows) == 1 + len(ALIGNMENT_METRICS)
    assert rows[-1].startswith("epe,3.6055")
    assert rows[-1].endswith("False,40,60,vis,ir warped,ir,ir")

    viewer.layers.remove("ir")
    alone = measure(find(viewer), progress=lambda *_: None, cancel=threading.Event())
    assert list(alone.after) == ["nmi", "ncc", "edge_agreement"]
    assert alone.before == {}
    assert alone.better("nmi") is None
    assert alone.note == ""


@pytest.mark.parametrize("fits", [True, False])
def test_the_error_of_transforms_that_are_kept_coarse(fits, monkeypatch):
    """Of large images, without a displacement field at full resolution."""
    pytest.importorskip("napari")
    from napari_busref._napari.compare import metrics as compare_metrics
    from napari_busref.transforms import grids
    from napari_busref.transforms.levels import from_levels

    viewer = registered()  # by (2, -3) pixels
    coarse = grids.Grid((SHAPE[0] // 2, SHAPE[1] // 2), (2.0, 2.0))
    displacement = np.zeros((2, *coarse.shape), np.float32)
    displacement[0] = 2.5  # pixels of the coarse grid
    transform = Transform(
        np.eye(3), displacement, fixed_shape=coarse.shape, moving_shape=coarse.shape
    )
    known = {"transform": transform}
    carrier = viewer.add_points(name="true", metadata={KEY: known})
    if not fits:
        monkeypatch.setattr(grids, "FIELD_BUDGET", 100)
        monkeypatch.setattr(compare_metrics, "PIXEL_BUDGET", 300)

    def numbers():
        return compare_metrics.measure(
            find(viewer, carrier), progress=lambda *_: None, cancel=threading.Event()
        )

    # without its grids, the transform does not apply to these images
    found = numbers()
    assert "epe" not in found.after
    assert found.note == (
        "No EPE: the true transform is from 20 x 30 pixels to 20 x 30 pixels, and the images have "
        "40 x 60 pixels and 40 x 60 pixels."
    )
    known["transform"] = from_levels(transform, coarse, coarse, SHAPE, SHAPE)
    found = numbers()
    assert found.note == ""
    assert found.after["epe"] == pytest.approx(np.hypot(3, 3), rel=0.02)
    assert found.before["epe"] == pytest.approx(5, rel=0.02)
    # the error needs no moving layer
    viewer.layers.remove("ir")
    assert numbers().after["epe"] == pytest.approx(np.hypot(3, 3), rel=0.02)


def test_why_there_is_no_error_is_said():
    pytest.importorskip("napari")
    from napari_busref._napari.compare.metrics import measure

    viewer = registered()
    image = viewer.add_image(noise(seed=5)[..., 0], name="truth")
    found = measure(find(viewer, image), progress=lambda *_: None, cancel=threading.Event())
    assert "mncc" in found.after and "epe" not in found.after
    assert found.note == "No EPE: the truth is an image and carries no transform."


def test_the_view_is_one_layer_and_leaves_no_trace():
    napari_layers = pytest.importorskip("napari.layers")
    from napari_busref._napari.compare.view import ComparisonView

    viewer = registered()
    layers = viewer.layers
    layers["ir"].visible = False
    viewer.add_points(name="landmarks")
    before = [(layer.name, layer.visible) for layer in layers]
    layers.selection.active = layers["ir"]
    gone, callbacks = [], list(viewer.mouse_drag_callbacks)
    view = ComparisonView(viewer, on_removed=lambda: gone.append(True))
    comparison = find(viewer)
    region = whole(viewer, comparison)
    view.show(noise(), comparison.fixed.plane, region)
    assert [layer.name for layer in layers] == [
        "vis",
        "ir",
        "ir warped",
        "comparison",
        "landmarks",
    ]
    assert [layer.name for layer in layers if layer.visible] == ["comparison", "landmarks"]
    assert layers.selection.active == layers["ir"]
    shown = view.layer
    view.show(noise(seed=9), comparison.fixed.plane, region)
    assert view.layer is shown
    np.testing.assert_array_equal(shown.data, noise(seed=9))
    layers["ir"].visible = True  # the user shows it, so it stays visible
    view.clear()
    view.clear()
    assert [(layer.name, layer.visible) for layer in layers] == [
        before[0],
        ("ir", True),
        *before[2:],
    ]
    assert viewer.mouse_drag_callbacks == callbacks
    assert not gone

    view.show(noise(), comparison.fixed.plane, region)
    layers.remove("comparison")
    assert gone == [True]
    assert view.layer is None
    assert layers["vis"].visible
    assert isinstance(layers["vis"], napari_layers.Image)


@pytest.mark.parametrize("placed", [{}, PLACED])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_edge_is_dragged_in_the_canvas(placed, axis):
    pytest.importorskip("napari")
    from napari_busref._napari.compare.view import ComparisonView

    viewer = registered(**placed)
    moved = []
    view = ComparisonView(viewer, on_dragged=moved.append)
    comparison = find(viewer)
    first, second = noise(seed=1), noise(seed=2)
    view.show_swipe(
        first, second, comparison.fixed.plane, whole(viewer, comparison), position=0.5, axis=axis
    )
    size = SHAPE[axis]
    pixel = [20.0, 30.0]

    def event(at, kind, button=1):
        pixel[axis] = at
        position = view.layer.data_to_world(pixel)
        return SimpleNamespace(position=position, type=kind, button=button, handled=False)

    drag = viewer.mouse_drag_callbacks[-1]
    viewer.scene.camera.zoom = 40.0
    far = event(size / 2 + 15, "mouse_press")
    assert list(drag(viewer, far)) == []
    assert not far.handled  # so napari pans
    assert list(drag(viewer, event(size / 2, "mouse_press", button=2))) == []
    press = event(size / 2 - 0.5, "mouse_press")
    steps = drag(viewer, press)
    next(steps)
    assert press.handled
    for to, expected in ((10.5, 11 / size), (-400, 0.0), (400, 1.0)):
        vars(press).update(vars(event(to, "mouse_move")))
        next(steps)
        assert moved[-1] == pytest.approx(expected)
        view.move(moved[-1])
    press.type = "mouse_release"
    assert list(steps) == []
    np.testing.assert_array_equal(view.layer.data, first)
    view.show(second, comparison.fixed.plane, whole(viewer, comparison))
    assert list(drag(viewer, event(size / 2, "mouse_press"))) == []  # the divider is gone


@pytest.mark.parametrize("ndim", [3, 4])
def test_a_plane_of_a_stack_is_compared_where_it_is(ndim):
    napari_layers = pytest.importorskip("napari.layers")
    from napari_busref._napari.compare.pixels import choose_region
    from napari_busref._napari.compare.source import find_comparison
    from napari_busref._napari.compare.view import ComparisonView

    lead = (3,) * (ndim - 2)
    stack = np.random.default_rng(0).integers(0, 255, (*lead, *SHAPE)).astype(np.uint8)
    scale = (5.0,) * len(lead) + (2.0, 2.0)
    viewer = viewer_of(
        napari_layers.Image(stack, name="vis", scale=scale),
        napari_layers.Image(255 - stack, name="ir", scale=scale),
    )
    for axis in range(len(lead)):
        viewer.dims.set_current_step(axis, 1)
    comparison = find_comparison(viewer, viewer.layers["vis"], viewer.layers["ir"])
    region = choose_region(comparison.fixed.plane)
    where = (1,) * len(lead)
    np.testing.assert_array_equal(read(comparison.after, region).image, 255 - stack[where])
    view = ComparisonView(viewer)
    view.show(noise(), comparison.fixed.plane, region)
    assert view.layer.data.shape == (*[1] * len(lead), *SHAPE, 3)
    zero = (0,) * len(lead)
    np.testing.assert_allclose(
        view.layer.data_to_world((*zero, 3, 4)),
        viewer.layers["vis"].data_to_world((*where, 3, 4)),
    )
