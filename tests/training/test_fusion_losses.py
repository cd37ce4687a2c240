"""The losses of the fusion networks against literal, slow versions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage as ndi
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from napari_busref.models.fusion.refusion import LossWeights
from napari_busref.training.losses import mda as mda_losses
from napari_busref.training.losses import refusion as refusion_losses
from napari_busref.training.losses.fusion import (
    brightness_loss,
    energy_weights,
    pyramid_gradient_loss,
    target_brightness,
    target_gradient,
    target_image,
)
from napari_busref.training.recipe import FusionLossConfig

Array = NDArray[np.float64]


@pytest.fixture
def images() -> tuple[Tensor, Tensor, Tensor]:
    """Three smooth images (2, 1, 24, 30): fused, visible, infrared."""
    rng = np.random.default_rng(0)
    stack = ndi.gaussian_filter(rng.random((3, 2, 1, 24, 30)), (0, 0, 0, 1, 1))
    stack = (stack - stack.min()) / np.ptp(stack)
    fused, visible, infrared = torch.from_numpy(stack)
    return fused, visible, infrared


def gradient(image: Array) -> Array:
    """Sobel derivatives along x and y, kernels of sum of magnitudes 1, borders repeated."""
    return np.stack([ndi.sobel(image, axis, mode="nearest") / 8 for axis in (1, 0)])


def halved(image: Array) -> Array:
    rows, cols = image.shape
    found = np.empty((rows // 2, cols // 2))
    for y in range(rows // 2):
        for x in range(cols // 2):
            found[y, x] = image[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean()
    return found


def wanted(visible: Array, infrared: Array, window: int, power: float, noise: float) -> Array:
    gradients = [gradient(image) for image in (visible, infrared)]
    energies = [
        ndi.uniform_filter((g**2).sum(0), window, mode="nearest") + noise**2 for g in gradients
    ]
    raised = [e**power for e in energies]
    share = raised[0] / (raised[0] + raised[1])
    result: Array = share * gradients[0] + (1 - share) * gradients[1]
    return result


def test_pyramid_gradient_loss_is_the_written_out_one(
    images: tuple[Tensor, Tensor, Tensor],
) -> None:
    gains = (1.2, 1.0, 0.8)
    expected = 0.0
    for fused, visible, infrared in zip(*(i[:, 0].numpy() for i in images), strict=True):
        for level, gain in enumerate(gains):
            if level:
                fused, visible, infrared = halved(fused), halved(visible), halved(infrared)
            apart = gradient(fused) - gain * wanted(visible, infrared, 5, 2.0, 0.01)
            expected += np.abs(apart).sum(0).mean() / 2
    settings = FusionLossConfig(gains=gains, window=5, power=2.0, noise=0.01)
    found = pyramid_gradient_loss(*images, settings)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def doubled(image: Array, size: tuple[int, int]) -> Array:
    """Bilinear, centres of pixels on centres, borders repeated; cut to a size."""
    places = np.mgrid[: 2 * image.shape[0], : 2 * image.shape[1]] / 2 - 0.25
    found: Array = ndi.map_coordinates(image, places, order=1, mode="nearest")
    return found[: size[0], : size[1]]


def test_wanted_image_is_the_written_out_pyramid(images: tuple[Tensor, Tensor, Tensor]) -> None:
    """Of 22 x 28 px, which the two halvings divide once without and once with a rest."""
    visible, infrared = (image[..., :22, :28] for image in images[1:])
    gains = (1.3, 1.1)
    settings = FusionLossConfig(
        gains=gains, window=3, power=2.0, noise=0.01, decision=3.0, contrast=0.1
    )
    found = target_image(visible, infrared, settings)
    for image, *sources in zip(
        *(i[:, 0].numpy() for i in (found, visible, infrared)), strict=True
    ):
        sources = [np.pad(s, ((0, 2), (0, 0)), mode="reflect") for s in sources]
        bands = []
        for gain in gains:
            energies = [
                ndi.uniform_filter((gradient(s) ** 2).sum(0), 3, mode="nearest") + 0.01**2
                for s in sources
            ]
            share = energies[0] ** 2 / (energies[0] ** 2 + energies[1] ** 2)
            coarser = [halved(s) for s in sources]
            detail = [s - doubled(c, s.shape) for s, c in zip(sources, coarser, strict=True)]
            bands.append(gain * (share * detail[0] + (1 - share) * detail[1]))
            sources = coarser
        share = 1 / (1 + np.exp(-3 * (sources[0] - sources[1])))
        expected = share * sources[0] + (1 - share) * sources[1]
        total = sources[0] + sources[1]
        expected = expected + 0.1 * (total - total.mean())
        expected = np.clip(expected, np.minimum(*sources), np.maximum(*sources))
        for band in reversed(bands):
            expected = doubled(expected, band.shape) + band
        np.testing.assert_allclose(image, expected[:22], atol=1e-6)


def test_pyramid_gradient_loss_may_ask_for_the_wanted_image(
    images: tuple[Tensor, Tensor, Tensor],
) -> None:
    """At the border of a cold bright sky the infrared step is the stronger one, at all scales."""
    fused, visible, infrared = images
    settings = FusionLossConfig(gains=(1.2, 0.8), image=True, decision=3.0)
    wanted = target_image(visible, infrared, settings)
    assert float(pyramid_gradient_loss(wanted, visible, infrared, settings)) < 1e-9
    assert float(pyramid_gradient_loss(fused, visible, infrared, settings)) > 0.01


def test_a_cold_sky_is_wanted_bright_with_the_detail_of_either_source() -> None:
    """Leaves of the visible image and a person of the infrared one, on a bright and cold sky."""
    sky = (torch.arange(96) < 48).double()[:, None].expand(1, 1, 96, 96)
    visible, infrared = 0.4 + 0.4 * sky, 0.8 - 0.6 * sky  # the infrared step is the stronger one
    visible[..., 4:12, 8:40] += 0.05 * (-1) ** (torch.arange(32) // 2)
    infrared[..., 80:88, 60:64] += 0.15
    image = target_image(visible, infrared, FusionLossConfig(decision=4.0))
    assert float(image[..., :16, 48:].mean()) > 0.6
    stripes = image[..., 6:10, 12:36].unflatten(-1, (-1, 4))
    assert float((stripes[..., :2] - stripes[..., 2:]).mean()) > 0.075  # 0.05 if they were mixed
    assert float((image[..., 83, 61] - image[..., 83, 50]).mean()) > 0.12


def test_wanted_gradient_keeps_the_sign_of_the_stronger_source() -> None:
    """A falling edge of the visible image stays one although the infrared one rises weakly."""
    ramp = torch.linspace(0, 1, 20)[None, None, None].expand(1, 1, 20, 20)
    found = target_gradient(1 - ramp, 0.2 * ramp, power=8.0)
    inner = found[:, :, 4:-4, 4:-4]
    torch.testing.assert_close(inner[:, 0], torch.full_like(inner[:, 0], -1 / 19))
    torch.testing.assert_close(inner[:, 1], torch.zeros_like(inner[:, 1]))


def test_what_is_weaker_than_noise_has_no_say() -> None:
    """A hundred times the energy, and yet the mean, as both are below the noise."""
    weak = torch.rand(1, 2, 9, 9)
    found = energy_weights(1e-3 * weak, 1e-4 * weak, 3, 2.0, noise=0.05)
    torch.testing.assert_close(found, torch.full_like(found, 0.5), atol=1e-3, rtol=0)


def test_energy_weights_of_equals_are_one_half() -> None:
    gradients = torch.rand(1, 2, 9, 9)
    found = energy_weights(gradients, gradients.flip(1), 3, 2.0, 0.0)
    torch.testing.assert_close(found, torch.full_like(found, 0.5))


def test_brightness_loss_sees_squares_only(images: tuple[Tensor, Tensor, Tensor]) -> None:
    _, visible, infrared = images
    mean = (visible + infrared) / 2
    checkers = torch.ones_like(mean) * (-1) ** torch.arange(30)
    assert float(brightness_loss(mean + 0.1 * checkers, visible, infrared, 6)) < 1e-9
    assert float(brightness_loss(mean + 0.1, visible, infrared, 6)) == pytest.approx(0.1)


def test_a_bright_sky_that_is_cold_is_wanted_bright_and_so_are_people_at_night() -> None:
    sky, ground = torch.tensor([0.9, 0.2]), torch.tensor([0.4, 0.4])
    for visible, infrared in (sky, sky.flip(0)):
        wanted = [brightness(visible, infrared, k)[0] for k in (0.0, 2.5, 50.0)]
        assert wanted == pytest.approx([0.55, 0.9 - 0.7 / (1 + np.exp(1.75)), 0.9])
    assert brightness(*ground, 2.5)[0] == pytest.approx(0.4)


def brightness(
    visible: Tensor | list[float], infrared: Tensor | list[float], *settings: float
) -> list[float]:
    """Target brightness of an image of one row."""
    rows = (torch.as_tensor(row).double().reshape(1, 1, 1, -1) for row in (visible, infrared))
    return target_brightness(*rows, *settings).flatten().tolist()


def test_contrast_stays_within_the_range_of_the_sources() -> None:
    """At the same brightness in both sources the target is that brightness, dark or saturated."""
    levels = [0.0, 0.02, 0.05, 0.1, 0.5, 0.9, 1.0]
    assert brightness(levels, levels, 2.0, 0.5) == pytest.approx(levels)
    wanted = brightness([0.1, 0.9, 0.5], [0.3, 0.7, 0.5], 0.0, 0.1)
    assert wanted == pytest.approx([0.2 - 0.1 * 0.6, 0.8 + 0.1 * 0.6, 0.5])
    assert brightness([0.1, 0.9], [0.3, 0.7], 0.0, 2.0) == pytest.approx([0.1, 0.9])


def test_brightness_loss_is_the_distance_to_the_wanted_brightness_of_squares(
    images: tuple[Tensor, Tensor, Tensor],
) -> None:
    fused, visible, infrared = images
    expected = []
    for y in range(0, 24, 6):
        for x in range(0, 30, 6):
            f, v, r = (i[:, 0, y : y + 6, x : x + 6].mean((1, 2)).numpy() for i in images)
            share = 1 / (1 + np.exp(-3 * (v - r)))
            mean = (visible + infrared).mean((1, 2, 3)).numpy()
            target = share * v + (1 - share) * r + 0.2 * (v + r - mean)
            expected.append(abs(f - np.clip(target, np.minimum(v, r), np.maximum(v, r))))
    found = brightness_loss(fused, visible, infrared, 6, decision=3.0, contrast=0.2)
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-6)


def test_feature_entropy_is_that_of_the_histogram() -> None:
    features = torch.rand(2, 3, 10, 12)
    expected = []
    for channels in features.numpy():
        bits = []
        for channel in channels:
            counts = np.bincount(np.rint(channel * 31).astype(int).ravel(), minlength=32)
            share = counts[counts > 0] / counts.sum()
            bits.append(-(share * np.log2(share)).sum())
        expected.append(np.mean(bits))
    found = mda_losses.feature_entropy(features)
    torch.testing.assert_close(found, torch.tensor(np.array(expected)).float())


def test_information_goes_to_the_source_that_has_some() -> None:
    rich, poor = torch.rand(2, 4, 16, 16), 0.5 + 0.01 * torch.rand(2, 4, 16, 16)
    intensity, structure = mda_losses.information_weights([rich], [poor], 4.0, 0.5)
    assert (intensity > 0.9).all() and (structure > 0.9).all()
    swapped = mda_losses.information_weights([poor], [rich], 4.0, 0.5)
    torch.testing.assert_close(1 - swapped[0], intensity)
    equal = mda_losses.information_weights([rich], [rich], 4.0, 0.5)
    torch.testing.assert_close(equal[1], torch.full((2,), 0.5))


def test_image_loss_is_the_weighted_sum(images: tuple[Tensor, Tensor, Tensor]) -> None:
    fused, visible, infrared = images
    intensity, structure = torch.tensor([0.2, 0.9]).double(), torch.tensor([0.6, 0.3]).double()
    expected = 0.0
    for i in range(2):
        for source, share in ((infrared, intensity[i]), (visible, 1 - intensity[i])):
            expected += float(share * ((fused[i] - source[i]) ** 2).mean()) / 2
        for source, share in ((infrared, structure[i]), (visible, 1 - structure[i])):
            value = structural_similarity_index_measure(
                fused[i : i + 1], source[i : i + 1], sigma=1.5, kernel_size=7, data_range=1.0
            )
            assert isinstance(value, Tensor)
            expected += float(share * (1 - value)) / 2
    found = mda_losses.image_loss(fused, infrared, visible, intensity, structure, scales=1)
    # the borders are treated in different ways
    assert float(found) == pytest.approx(expected, rel=0.1)


def test_feature_loss_is_the_written_out_one(images: tuple[Tensor, Tensor, Tensor]) -> None:
    fused, visible, infrared = images
    value = float((fused - infrared).abs().mean())
    slope = np.mean(
        [
            np.abs(gradient(f.numpy()) - gradient(v.numpy())).mean()
            for f, v in zip(fused[:, 0], visible[:, 0], strict=True)
        ]
    )
    unit = np.sqrt(np.square([visible.numpy(), infrared.numpy()]).mean())
    same = mda_losses.Joined(infrared, visible, fused)
    found = mda_losses.feature_loss([same] * 5)
    assert float(found) == pytest.approx(float(value + slope) / unit, rel=1e-6)
    far = same._replace(fused=infrared + 5)
    weighted = [
        float(mda_losses.feature_loss([far if i == j else same for i in range(5)]))
        for j in range(5)
    ]
    extra = (np.array(weighted) - float(found)) / (weighted[4] - float(found))
    assert extra == pytest.approx([8, 8, 2, 2, 1], rel=1e-6)


def test_feature_loss_moves_the_fused_features_alone(
    images: tuple[Tensor, Tensor, Tensor],
) -> None:
    leaves = [image.requires_grad_() for image in images]
    pair = mda_losses.Joined(leaves[2], leaves[1], leaves[0])
    mda_losses.feature_loss([pair] * 5).backward()
    assert [leaf.grad is not None for leaf in leaves] == [True, False, False]


def test_contrast_structure_is_ssim_without_brightness(
    images: tuple[Tensor, Tensor, Tensor],
) -> None:
    first, second = (image[0, 0].numpy() for image in images[:2])
    found = mda_losses.contrast_structure(*images[:2], window=7)[0, 0]
    assert found.shape == (18, 24)
    for y, x in ((0, 0), (5, 11), (17, 23)):
        a, b = (image[y : y + 7, x : x + 7] for image in (first, second))
        covariance = ((a - a.mean()) * (b - b.mean())).mean()
        expected = (2 * covariance + 0.0009) / (a.var() + b.var() + 0.0009)
        assert float(found[y, x]) == pytest.approx(expected, rel=1e-6)


def test_patch_loss_is_the_written_out_one(images: tuple[Tensor, Tensor, Tensor]) -> None:
    fused, visible, infrared = (image[:1] for image in images)
    window, beta, temperature = 9, 3.0, 0.4
    arrays = [image[0, 0].numpy() for image in (fused, infrared, visible)]
    energies = [(gradient(image) ** 2).sum(0) for image in arrays[1:]]
    values = []
    for y in range(24 - window + 1):
        for x in range(30 - window + 1):
            cut = np.s_[y : y + window, x : x + window]
            f, *sources = (image[cut] for image in arrays)
            energy = np.array([e[cut].mean() for e in energies])
            structure = np.exp(energy / energy.sum() / (temperature / 2))
            amount = np.array([s.mean() + beta * s.var() for s in sources])
            brightness = np.exp(amount / temperature)
            value = 0.0
            for k, s in enumerate(sources):
                covariance = ((f - f.mean()) * (s - s.mean())).mean()
                unlike = 1 - (2 * covariance + 0.0009) / (f.var() + s.var() + 0.0009)
                value += structure[k] / structure.sum() * unlike
                value += brightness[k] / brightness.sum() * ((f - s) ** 2).mean()
            values.append(value)
    found = mda_losses.patch_loss(fused, infrared, visible, beta, temperature, window)
    assert float(found) == pytest.approx(np.mean(values), rel=1e-6)


def test_style_loss_is_zero_for_the_same_correlations_only() -> None:
    features = torch.rand(1, 4, 8, 8)
    shuffled = features.flatten(2)[..., torch.randperm(64)].unflatten(2, (8, 8))
    assert float(mda_losses.style_loss([shuffled], [features])) == pytest.approx(0, abs=1e-6)
    other = torch.rand(1, 4, 8, 8) ** 6
    grams = []
    for x in (other, features):
        x = x[0].flatten(1) / x.square().mean().sqrt()
        grams.append((x @ x.T / 64).flatten().softmax(0))
    expected = (grams[1] * (grams[1] / grams[0]).log()).sum()
    found = mda_losses.style_loss([other], [features])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    assert float(found) > 0


def test_proposed_loss_is_the_written_out_one(images: tuple[Tensor, Tensor, Tensor]) -> None:
    fused, first, second = (image[:1] for image in images)
    share, strength = torch.rand(2, 1, 1, 24, 30, dtype=torch.float64)
    arrays = [image[0, 0].numpy() for image in (fused, first, second)]
    target = 1.2 * wanted(arrays[1], arrays[2], 3, 2.0, 0.01)
    near, weight = share[0, 0].numpy(), strength[0, 0].numpy()
    expected = (
        near * np.abs(arrays[0] - arrays[1])
        + (1 - near) * np.abs(arrays[0] - arrays[2])
        + 3 * weight * np.abs(gradient(arrays[0]) - target).sum(0)
    ).mean()
    weights = LossWeights(share, 1 - share, strength)
    settings = FusionLossConfig(gradient=3.0, window=3, power=2.0, noise=0.01, gains=(1.2,))
    found = refusion_losses.proposed_loss(fused, first, second, weights, settings)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_reconstruction_loss_is_zero_for_the_sources(
    images: tuple[Tensor, Tensor, Tensor],
) -> None:
    other, first, second = images
    assert float(refusion_losses.reconstruction_loss((first, second), first, second)) < 1e-6
    half = refusion_losses.reconstruction_loss((first, other), first, second)
    both = refusion_losses.reconstruction_loss((second, other), first, second)
    assert 0 < float(half) < float(both)
