from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage as ndi

from napari_busref.metrics import fusion

SHAPE = (60, 76)


def texture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = ndi.gaussian_filter(rng.random(SHAPE), 2.0) + 0.02 * rng.random(SHAPE)
    return np.rint(255 * (image - image.min()) / np.ptp(image))


@pytest.fixture(scope="module")
def visible() -> np.ndarray:
    return texture(1)


@pytest.fixture(scope="module")
def infrared() -> np.ndarray:
    return texture(2)


@pytest.fixture(scope="module")
def average(visible, infrared) -> np.ndarray:
    return (visible + infrared) / 2


def test_edge_intensity_of_a_ramp_is_eight_times_its_slope():
    ramp = np.tile(3.0 * np.arange(40), (30, 1))
    inner = fusion.edge_intensity(ramp)
    # replicated borders halve the slope of the first and the last column
    assert inner == pytest.approx(24 * (38 + 1) / 40)
    assert fusion.edge_intensity(ramp.T) == pytest.approx(inner)


def test_spatial_frequency_of_a_checkerboard():
    board = 10.0 * (np.indices((20, 20)).sum(axis=0) % 2)
    assert fusion.spatial_frequency(board) == pytest.approx(math.sqrt(200))


def test_entropy_and_deviation_in_closed_form():
    levels = np.repeat(np.arange(256), 4).reshape(32, 32)
    assert fusion.entropy(levels) == pytest.approx(8.0)
    assert fusion.entropy(np.full((8, 8), 7)) == 0.0
    halves = np.repeat([[0.0], [100.0]], 8, axis=1)
    assert fusion.standard_deviation(halves) == pytest.approx(50.0)


def test_cross_entropy_in_closed_form(visible):
    assert fusion.cross_entropy(visible, visible, visible) == pytest.approx(0.0)
    fused = np.repeat([0, 1], [32, 32]).reshape(8, 8)
    source = np.repeat([0, 1], [16, 48]).reshape(8, 8)
    expected = 0.25 * math.log2(0.25 / 0.5) + 0.75 * math.log2(0.75 / 0.5)
    assert fusion.cross_entropy(fused, source, source) == pytest.approx(expected)
    assert fusion.cross_entropy(fused, source, fused) == pytest.approx(expected / 2)


def test_mutual_information(visible, infrared):
    own = fusion.entropy(visible)
    assert fusion.mutual_information(visible, visible, visible) == pytest.approx(2 * own)
    independent = np.tile(np.arange(32), (32, 1))
    assert fusion.mutual_information(independent, independent.T, independent.T) == pytest.approx(0)
    # against numpy's own two-dimensional histogram
    joint = np.histogram2d(visible.ravel(), infrared.ravel(), bins=np.arange(257) - 0.5)[0]
    joint /= joint.sum()
    entropies = [
        -sum(p * math.log2(p) for p in h.ravel() if p > 0)
        for h in (joint, joint.sum(0), joint.sum(1))
    ]
    expected = entropies[1] + entropies[2] - entropies[0]
    got = fusion.mutual_information(visible, visible, infrared)
    assert got == pytest.approx(own + expected)


def test_correlation_and_scd(visible, infrared, average):
    corr = np.corrcoef
    expected = (
        corr(average.ravel(), visible.ravel())[0, 1]
        + corr(average.ravel(), infrared.ravel())[0, 1]
    ) / 2
    assert fusion.correlation(average, visible, infrared) == pytest.approx(expected)
    # the sum of both sources is the perfect fusion for SCD
    assert fusion.scd(visible + infrared, visible, infrared) == pytest.approx(2.0)
    expected = (
        corr((average - visible).ravel(), infrared.ravel())[0, 1]
        + corr((average - infrared).ravel(), visible.ravel())[0, 1]
    )
    assert fusion.scd(average, visible, infrared) == pytest.approx(expected)
    assert fusion.scd(visible, visible, visible) == 0.0


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM as printed in the paper, window by window."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for row in range(5, a.shape[0] - 5):
        for col in range(5, a.shape[1] - 5):
            window = np.s_[row - 5 : row + 6, col - 5 : col + 6]
            p, q = a[window], b[window]
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
            cov = (weights * (p - mp) * (q - mq)).sum()
            luminance = (2 * mp * mq + c1) / (mp**2 + mq**2 + c1)
            values.append(luminance * (2 * cov + c2) / (vp + vq + c2))
    return float(np.mean(values))


def test_ssim_against_the_written_formula(visible, infrared, average):
    expected = (slow_ssim(average, visible) + slow_ssim(average, infrared)) / 2
    assert fusion.ssim(average, visible, infrared) == pytest.approx(expected, abs=1e-6)
    assert fusion.ssim(visible, visible, visible) == pytest.approx(1.0)


def test_vif_of_a_copy_is_complete_and_of_noise_is_lost(visible, infrared):
    assert fusion.vif(visible, visible, visible) == pytest.approx(2.0, abs=1e-6)
    noise = 255 * np.random.default_rng(0).random(SHAPE)
    assert fusion.vif(noise, visible, infrared) < 0.1
    flat = np.full(SHAPE, 9.0)
    assert fusion.vif(flat, visible, infrared) == pytest.approx(0.0)
    assert np.isfinite(fusion.vif(visible, flat, infrared))
    # a known property: more contrast than the reference counts as more than complete
    stretched = 128 + 1.5 * (visible - 128)
    assert fusion.vif(stretched, visible, visible) > 2


def test_vif_against_sewar(visible, infrared, average):
    vifp = pytest.importorskip("sewar.full_ref", reason="needs sewar (extra: benchmarks)").vifp
    expected = vifp(visible, average) + vifp(infrared, average)
    assert fusion.vif(average, visible, infrared) == pytest.approx(expected, rel=1e-6)


def slow_edges(image: np.ndarray) -> list[list[tuple[float, float]]]:
    """Sobel strength and orientation, pixel by pixel, borders replicated."""
    padded = np.pad(image, 1, mode="edge")
    out = []
    for row in range(image.shape[0]):
        line = []
        for col in range(image.shape[1]):
            p = padded[row : row + 3, col : col + 3]
            along_cols = p[0, 2] + 2 * p[1, 2] + p[2, 2] - p[0, 0] - 2 * p[1, 0] - p[2, 0]
            along_rows = p[2, 0] + 2 * p[2, 1] + p[2, 2] - p[0, 0] - 2 * p[0, 1] - p[0, 2]
            strength = math.sqrt(along_cols**2 + along_rows**2)
            angle = math.pi / 2 if along_cols == 0 else math.atan(along_rows / along_cols)
            line.append((strength, angle))
        out.append(line)
    return out


def slow_edge_scores(fused, visible, infrared) -> tuple[float, float]:
    """Q_AB/F and modified N_AB/F as the papers print them."""
    edges = [slow_edges(image) for image in (fused, visible, infrared)]
    kept = weights = lost = artefact_weights = 0.0
    for row in range(fused.shape[0]):
        for col in range(fused.shape[1]):
            strength, angle = edges[0][row][col]
            sources = [edges[1][row][col], edges[2][row][col]]
            artefact = all(strength > own for own, _ in sources)
            for own, own_angle in sources:
                if own == 0:
                    continue
                ratio = strength / own if own > strength else own / strength
                alignment = abs(abs(angle - own_angle) - math.pi / 2) / (math.pi / 2)
                q = 0.9994 / (1 + math.exp(-15 * (ratio - 0.5)))
                q *= 0.9879 / (1 + math.exp(-22 * (alignment - 0.8)))
                kept += q * own
                weights += own
                artefact_weights += own**1.5
                lost += artefact * (1 - q) * own**1.5
    return kept / weights, lost / artefact_weights


@pytest.mark.parametrize("kind", ["average", "sharpened", "copy"])
def test_edge_scores_against_the_written_formula(visible, infrared, average, kind):
    fused = {
        "average": average,
        "sharpened": average + 2 * (average - ndi.uniform_filter(average, 3)),
        "copy": infrared,
    }[kind]
    expected = slow_edge_scores(fused, visible, infrared)
    got = fusion.qabf(fused, visible, infrared), fusion.nabf(fused, visible, infrared)
    assert got == pytest.approx(expected, abs=1e-6)
    if kind == "copy":
        assert got[1] == 0
    if kind == "sharpened":
        assert got[1] > 0.01


def test_edge_scores_of_the_extremes(visible):
    same = fusion.qabf(visible, visible, visible)
    # the published constants make a perfect copy a little less than 1
    assert same == pytest.approx(0.9994 * 0.9879 / (1 + math.exp(-7.5)) / (1 + math.exp(-4.4)))
    assert fusion.nabf(visible, visible, visible) == 0
    flat = np.zeros(SHAPE)
    assert fusion.qabf(visible, flat, flat) == 0
    assert fusion.nabf(visible, flat, flat) == 0


def test_all_scores_together(visible, infrared, average):
    scores = fusion.fusion_scores(average, visible, infrared)
    assert scores.keys() == fusion.HIGHER_IS_BETTER.keys()
    assert scores["scd"] == fusion.scd(average, visible, infrared)
    assert scores["nabf"] == fusion.nabf(average, visible, infrared)
    assert all(np.isfinite(value) for value in scores.values())
    as_bytes = fusion.fusion_scores(*(np.uint8(image) for image in (visible, visible, infrared)))
    as_floats = fusion.fusion_scores(visible, visible, infrared)
    assert as_bytes == as_floats


def test_bad_images_are_named(visible):
    with pytest.raises(ValueError, match="infrared must be a real grey"):
        fusion.scd(visible, visible, np.zeros((60, 76, 3)))
    with pytest.raises(ValueError, match="fused must be a real grey"):
        fusion.entropy(visible.astype(complex))
    with pytest.raises(ValueError, match="visible must be finite"):
        fusion.qabf(visible, np.full(SHAPE, np.nan), visible)
    with pytest.raises(ValueError, match=r"one size, got fused \(60, 76\), visible \(59, 76\)"):
        fusion.ssim(visible, visible[1:], visible)
    small = visible[:40, :40]
    with pytest.raises(ValueError, match="at least 41 pixels"):
        fusion.vif(small, small, small)
    enough = visible[:41, :41]
    assert fusion.vif(enough, enough, enough) == pytest.approx(2.0, abs=1e-6)
