"""Pictures that look thermal."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_busref import fuse, register_and_fuse
from napari_busref.fusion.styles import PALETTES, palette_colours

SHAPE = (80, 100)
STYLES = ["msx", "overlay", "inset"]
SPOT = np.s_[30:40, 20:30]  # warm
BOARD = np.s_[:, 60:]  # a chequered board in the visible image, of one temperature


def scene():
    """A grey wall with a board in colour; 10 to 30 °C, a warm spot of 60 °C, 20 px unseen."""
    visible = np.full((*SHAPE, 3), 100, np.uint8)
    visible[..., 1] = 120
    board = (np.indices(SHAPE).sum(0) // 4 % 2)[BOARD]
    visible[BOARD] = 60 + 120 * board[..., None].astype(np.uint8)
    celsius = np.broadcast_to(np.linspace(10, 30, SHAPE[0])[:, None], SHAPE).astype(np.float32)
    celsius = celsius.copy()
    celsius[SPOT] = 60
    mask = np.ones(SHAPE, bool)
    mask[:, :10] = False
    return visible, celsius, mask


def styled(style, **options):
    visible, celsius, mask = scene()
    kept = celsius.copy()
    result = fuse(
        visible,
        celsius,
        mask=mask,
        style=style,
        palette="iron",
        feather=0,
        device="cpu",
        **options,
    )
    assert np.array_equal(celsius, kept)  # temperatures stay
    return result


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_in_colours(style):
    result = styled(style)
    visible, _, mask = scene()
    assert result.fused.dtype == np.uint8
    assert result.fused.shape == (*SHAPE, 3)
    assert np.array_equal(result.fused[~mask], visible[~mask])
    assert result.parameters["style"] == style
    assert result.parameters["palette"] == "iron"


def test_edges_over_colours():
    picture = styled("msx").fused.astype(float)
    table = 255 * palette_colours("iron")
    assert np.abs(picture[SPOT] - table[-1]).max() < 3  # the warmest
    board = picture[30:50, 65:95].mean(-1)
    flat = picture[30:50, 40:55].mean(-1)
    assert np.abs(board - ndimage.median_filter(board, 9)).mean() > 10
    assert np.abs(flat - flat.mean(1, keepdims=True)).max() < 2
    plain = styled("msx", detail=0.0).fused.astype(float)
    assert np.abs(np.diff(plain[30:50, 65:95], axis=1)).max() < 2


def test_overlay_blends_with_its_opacity():
    visible, _, mask = scene()
    none, half, full = (styled("overlay", opacity=o).fused.astype(float) for o in (0, 0.5, 1))
    assert np.array_equal(none, visible)
    np.testing.assert_allclose(half[mask], (none + full)[mask] / 2, atol=1)


@pytest.mark.parametrize(
    ("limits", "coloured"),
    [({"above": 50}, lambda c: c >= 50), ({"below": 20}, lambda c: c <= 20)],
)
def test_isotherms(limits, coloured):
    visible, celsius, mask = scene()
    picture = styled("overlay", opacity=1, **limits).fused
    changed = (picture != visible).any(-1)
    assert np.array_equal(changed, coloured(celsius) & mask)


def test_inset_is_in_the_middle_of_the_overlap():
    visible, _, _ = scene()
    changed = (styled("inset").fused != visible).any(-1)
    rows, cols = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert (rows[0], rows[-1]) == (20, 59)
    assert (cols[0], cols[-1]) == (32, 77)


def test_scale_bar():
    plain, with_bar = (styled("msx", scale_bar=b, unit="°C").fused for b in (False, True))
    changed = (plain != with_bar).any(-1)
    assert changed[:, 80:].any()
    assert not changed[:, :40].any()
    column = with_bar[18:62, 96].astype(float).mean(-1)  # bright at the top
    assert column[:4].mean() > column[-4:].mean() + 100


def test_palettes():
    for name in PALETTES:
        colours = palette_colours(name)
        assert colours.shape == (256, 3)
        assert 0 <= colours.min() and colours.max() <= 1
        assert np.array_equal(palette_colours(f"{name}_r"), colours[::-1])


def test_palettes_are_those_of_matplotlib():
    colormaps = pytest.importorskip("matplotlib").colormaps
    for name in ("inferno", "magma", "plasma", "viridis", "gray"):
        theirs = colormaps[name](np.linspace(0, 1, 256))[:, :3]
        np.testing.assert_allclose(palette_colours(name), theirs, atol=0.06)
    assert np.array_equal(
        palette_colours("cividis"),
        colormaps["cividis"](np.linspace(0, 1, 256))[:, :3].astype("f4"),
    )


def test_natural_is_the_fused_image():
    visible, celsius, mask = scene()
    options = {"mask": mask, "model": "average", "device": "cpu"}
    one = fuse(visible, celsius, **options)
    other = fuse(visible, celsius, style="natural", palette="hot", **options)
    assert np.array_equal(one.fused, other.fused)
    assert one.parameters["style"] == "natural"


def test_registered_and_drawn_in_one_call():
    visible, celsius, _ = scene()
    result = register_and_fuse(
        visible, celsius, model="identity", style="msx", scale_bar=True, unit="°C", device="cpu"
    )
    assert result.fusion.fused.shape == (*SHAPE, 3)
    assert result.registration.warped.dtype == np.float32
    assert result.registration.warped.max() == 60


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"style": "thermal"}, ValueError, "style: got 'thermal', need one of 'natural', 'msx'"),
        ({"style": None}, ValueError, "style: got None"),
        ({"palette": "iorn"}, ValueError, "palette: got 'iorn', need one of 'inferno'"),
        ({"palette": 3}, ValueError, "palette: got 3, need one of"),
        ({"opacity": 2}, ValueError, r"opacity: got 2, need a number in \[0, 1\]"),
        ({"above": "warm"}, ValueError, "above: got 'warm', need a number$"),
        ({"above": 5, "below": 2}, ValueError, "below: got 2, need a number of at least above, 5"),
        ({"style": "msx", "scale_bar": True}, ValueError, "give unit='°C'"),
        (
            {"scale_bar": True, "unit": "K"},
            ValueError,
            "scale_bar: style 'natural' has no colours",
        ),
        ({"unit": 1}, TypeError, "unit: got 1, need text such as '°C', or None"),
    ],
)
def test_bad_input(options, error, message):
    visible, celsius, mask = scene()
    with pytest.raises(error, match=message):
        fuse(visible, celsius, mask=mask, device="cpu", model="average", **options)
