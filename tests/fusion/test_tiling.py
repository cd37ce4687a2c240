from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn

from napari_busref import Cancelled, fuse, list_models, load_model
from napari_busref.fusion.tiling import choose_size, cut
from napari_busref.models.fusion.baselines import GuidedFilter
from napari_busref.models.fusion.global_pooling import largest_of, mean_of, pool_image, products_of

SHAPE = (333, 421)


def textures(shape=SHAPE, smooth=2.0):
    rng = np.random.default_rng(0)
    pair = ndimage.gaussian_filter(rng.standard_normal((2, *shape)), (0, smooth, smooth))
    pair -= pair.min((1, 2), keepdims=True)
    visible, infrared = (pair / pair.max((1, 2), keepdims=True)).astype(np.float32)
    # tiles and the whole image differ in their statistics
    return visible * np.linspace(0.2, 1, shape[1], dtype=np.float32), infrared


class Attention(nn.Module):
    """Pools globally twice in sequence, on features at half the size."""

    receptive_field, stride = 20, 4

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Conv2d(2, 8, 3, stride=2, padding=1, padding_mode="reflect")
        self.norm = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.up = nn.Conv2d(8, 4, 1)
        self.calls = 0

    def forward(self, visible, infrared):
        self.calls += 1
        height, width = visible.shape[-2:]
        margin = (0, -width % 4, 0, -height % 4)
        pair = F.pad(torch.cat([visible, infrared], 1), margin, "replicate")
        x = self.down(pair)
        mean, square = pool_image(mean_of(x), mean_of(x * x))  # instance norm
        spread = (square - mean**2).clamp_min(1e-6).sqrt()
        x = self.norm((x - mean[..., None, None]) / spread[..., None, None])
        products, highest = pool_image(products_of(x, x), largest_of(x))
        size = products.diagonal(dim1=-2, dim2=-1).clamp_min(1e-9).sqrt()
        attention = (products / (size[:, :, None] * size[:, None])).softmax(-1)
        x = (attention @ x.flatten(2)).view_as(x) / highest.clamp_min(0.1)[..., None, None]
        return F.pixel_shuffle(self.up(x), 2)[..., :height, :width].sigmoid()


@pytest.mark.parametrize(
    ("shape", "size", "receptive_field", "stride"),
    [
        ((100, 130), 32, 10, 1),
        ((333, 421), 100, 13, 8),
        ((40, 500), 64, 70, 32),
        ((64, 64), 64, 5, 4),
    ],
)
def test_cores_cover_the_image_once(shape, size, receptive_field, stride):
    covered = np.zeros(shape, int)
    for tile in cut(shape, size, receptive_field, stride):
        covered[tile.core] += 1
        here = np.zeros(shape)
        here[tile.padded] = 1
        assert here[tile.core].all()
        assert np.array_equal(here[tile.padded][tile.inner].shape, covered[tile.core].shape)
        for core, padded, length in zip(tile.core, tile.padded, shape, strict=True):
            assert padded.start % stride == 0
            assert padded.start == 0 or core.start - padded.start >= receptive_field
            assert padded.stop == length or (
                padded.stop - core.stop >= receptive_field and not padded.stop % stride
            )
    assert (covered == 1).all()


@pytest.mark.parametrize("name", list_models("fusion"))
def test_tiles_are_the_whole_for_every_model(name, device):
    visible, infrared = textures()
    options = {"model": name, "device": device, "mask": np.ones(SHAPE)}
    whole = fuse(visible, infrared, tile=None, **options).fused
    tiled = fuse(visible, infrared, tile=128, **options)
    assert tiled.parameters["tile"] == 128
    np.testing.assert_allclose(tiled.fused, whole, atol=1e-5, rtol=0)


def test_sums_over_the_image_are_those_of_the_whole():
    model = Attention().eval()
    visible, infrared = textures()
    options = {"model": model, "device": "cpu", "mask": np.ones(SHAPE)}
    whole = fuse(visible, infrared, tile=None, **options).fused
    assert model.calls == 1
    tiled = fuse(visible, infrared, tile=96, **options).fused
    assert model.calls == 1 + 3 * 4 * 5  # two passes for the sums, one for the image
    np.testing.assert_allclose(tiled, whole, atol=1e-5, rtol=0)
    # sums of each tile alone would leave seams
    with torch.no_grad():
        part = model(*(torch.tensor(i[:96, :96])[None, None] for i in (visible, infrared)))
    assert np.abs(part[0, 0, :60, :60].numpy() - whole[:60, :60]).max() > 1e-2


def test_features_that_do_not_divide_a_tile_are_refused():
    class Uneven(nn.Module):
        receptive_field, stride = 0, 1

        def forward(self, visible, infrared):
            (mean,) = pool_image(mean_of(F.avg_pool2d(visible, 3)))
            return visible * mean[..., None, None]

    with pytest.raises(ValueError, match=r"need.* a larger stride"):
        fuse(*textures(), model=Uneven(), tile=100, device="cpu")


def test_too_small_a_reach_would_show():
    """The comparison above fails for a model that declares too small a receptive field."""
    model = GuidedFilter()
    visible, infrared = textures()
    options = {"device": "cpu", "mask": np.ones(SHAPE)}
    whole = fuse(visible, infrared, model=model, tile=None, **options).fused
    model.receptive_field = 8
    tiled = fuse(visible, infrared, model=model, tile=96, **options).fused
    assert np.abs(tiled - whole).max() > 1e-3


def test_only_large_images_are_cut_unless_asked():
    model, shape = load_model("average"), (3000, 4000)
    assert choose_size(model, "average", SHAPE, "auto") is None
    assert choose_size(model, "average", shape, "auto") == 512
    assert choose_size(model, "average", shape, None) is None
    assert choose_size(model, "average", shape, 512) == 512
    assert choose_size(model, "average", SHAPE, 512) is None  # one tile is the whole
    assert choose_size(nn.Identity(), "whole", shape, "auto") is None
    with pytest.raises(ValueError, match="cannot be cut"):
        choose_size(nn.Identity(), "whole", shape, 512)


def test_integers_masks_and_colours_come_out_of_tiles_as_out_of_the_whole():
    visible, infrared = textures()
    colour = (np.stack([visible, visible**2, 1 - visible], -1) * 60000).astype(np.uint16)
    mask = np.zeros(SHAPE, bool)
    mask[20:300, 50:400] = True
    options = {"model": "laplacian", "mask": mask, "infrared": 0.8, "detail": 0.7, "device": "cpu"}
    whole = fuse(colour, infrared, tile=None, **options).fused
    tiled = fuse(colour, infrared, tile=64, **options).fused
    assert tiled.dtype == np.uint16
    assert np.abs(tiled.astype(int) - whole).max() <= 1
    assert np.array_equal(tiled[~mask], colour[~mask])


def test_progress_and_cancelling_at_every_tile():
    visible, infrared = textures()
    seen = []
    options = {"model": "average", "tile": 128, "device": "cpu"}
    fuse(visible, infrared, progress=lambda *step: seen.append(step), **options)
    # the begin of the stage, the tiles, the composition
    assert [stage for stage, _ in seen].count("fusing the images") == 1 + 12 + 1
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    cancel, stages = threading.Event(), []

    def stop(stage, fraction):
        stages.append(stage)
        if stages.count("fusing the images") == 5:
            cancel.set()

    with pytest.raises(Cancelled):
        fuse(visible, infrared, progress=stop, cancel=cancel, **options)
