"""Second modalities made from one image."""

from __future__ import annotations

import pytest
import torch

from napari_busref.training.batches.augment import random_curve
from napari_busref.training.batches.modalities import MODALITIES, generated


def halves(left: float, right: float) -> torch.Tensor:
    """Four images with two flat halves."""
    image = torch.full((4, 1, 64, 64), left)
    image[..., 32:] = right
    return image


@pytest.mark.parametrize("kind", MODALITIES)
def test_each_shows_where_two_halves_meet(kind: str) -> None:
    torch.manual_seed(0)
    image = halves(0.2, 0.7)
    made = generated(image, [kind])
    assert made.shape == image.shape and 0 <= made.min() and made.max() <= 1
    assert not torch.equal(made, image)
    columns = made.mean(-2)[:, 0]  # rows average the noise
    steps = (columns[:, 1:] - columns[:, :-1]).abs()
    inner = steps[:, 12:-12]  # the border of a blurred image is not an edge of the scene
    assert ((inner.argmax(1) + 12 - 31).abs() <= 4).float().mean() >= 0.75
    torch.manual_seed(0)
    assert torch.equal(generated(image, [kind]), made)


def test_maps_are_flat_and_darkness_is_dark() -> None:
    torch.manual_seed(0)
    image = halves(0.2, 0.7)
    flat = generated(image, ["regions"])
    assert all(len(torch.unique(each)) <= 15 for each in flat)
    assert (generated(image, ["dark"]).amax((1, 2, 3)) < 0.7).all()
    torch.testing.assert_close(generated(image, ["inverted"]), 1 - image)


def test_each_image_draws_its_own_and_curves_stay_as_they_were() -> None:
    torch.manual_seed(0)
    image = torch.rand(12, 1, 32, 32)
    made = generated(image, ["inverted", "glare"])
    same = [torch.equal(a, 1 - b) for a, b in zip(made, image, strict=True)]
    assert any(same) and not all(same)
    torch.manual_seed(1)
    curved = generated(image, ["curve"])
    torch.manual_seed(1)
    assert torch.equal(curved, random_curve(image))
    with pytest.raises(ValueError, match="modalities: got 'x-ray', accepted are curve, inverted"):
        generated(image, ["curve", "x-ray"])
