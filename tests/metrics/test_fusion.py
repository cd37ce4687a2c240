from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage as ndi
from scipy import stats
from skimage.filters import sobel
from skimage.measure import shannon_entropy

from napari_busref.metrics import fusion
from napari_busref.metrics.fusion import features

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
    board = 10.0 * (np.indices((20, 25)).sum(axis=0) % 2)
    differences = 19 * 25 + 20 * 24  # each of 10, over 20 x 25 pixels
    assert fusion.spatial_frequency(board) == pytest.approx(math.sqrt(100 * differences / 500))


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
    # a known property: more contrast than the reference scores above 1
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
    """Q_AB/F and modified N_AB/F as printed in the papers."""
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
    assert list(scores) == list(fusion.METRICS)
    assert scores["scd"] == fusion.scd(average, visible, infrared)
    assert scores["nabf"] == fusion.nabf(average, visible, infrared)
    assert all(np.isfinite(value) for value in scores.values())
    as_bytes = fusion.fusion_scores(*(np.uint8(image) for image in (visible, visible, infrared)))
    as_floats = fusion.fusion_scores(visible, visible, infrared)
    assert as_bytes == as_floats


def slow_fmi(first: np.ndarray, second: np.ndarray) -> float:
    """Mean score of all windows of two feature images, by Fast-FMI."""
    scores = []
    for row in range(first.shape[0] - 2):
        for col in range(first.shape[1] - 2):
            window = np.s_[row : row + 3, col : col + 3]
            pair = [image[window].ravel(order="F") for image in (first, second)]
            if np.array_equal(*pair):
                scores.append(1.0)
                continue
            shares = []
            for values in pair:
                flat = values.max() == values.min()
                values = np.ones(9) if flat else (values - values.min()) / np.ptp(values)
                shares.append(values / values.sum())
            p, q = shares
            constant = np.ptp(p) == 0 or np.ptp(q) == 0
            rho = 0.0 if constant else float(np.corrcoef(p, q)[0, 1])
            places = np.arange(9)

            def joint_of(weight, bound, p=p, q=q):
                table = np.empty((9, 9))
                for i in range(9):
                    for j in range(9):
                        corner = [
                            bound(p[: i + 1 - a].sum(), q[: j + 1 - b].sum())
                            for a, b in ((0, 0), (1, 0), (0, 1), (1, 1))
                        ]
                        extreme = corner[0] - corner[1] - corner[2] + corner[3]
                        table[i, j] = weight * extreme + (1 - weight) * p[i] * q[j]
                return table

            bound = min if rho >= 0 else lambda a, b: max(a + b - 1, 0)
            extreme = joint_of(1.0, bound)
            means = [shares[k] @ places for k in (0, 1)]
            spreads = [math.sqrt(shares[k] @ (places - means[k]) ** 2) for k in (0, 1)]
            reach = (places - means[0]) @ extreme @ (places - means[1])
            weight = rho * spreads[0] * spreads[1] / reach if abs(reach) > 1e-12 else 0.0
            bits = [
                -sum(x * math.log2(abs(x)) for x in table.ravel() if x)
                for table in (p, q, joint_of(weight, bound))
            ]
            information = bits[0] + bits[1] - bits[2]
            scores.append(2 * information / (bits[0] + bits[1]) if information else 0.0)
    return float(np.mean(scores))


@pytest.mark.parametrize("kind", ["average", "inverted", "flat parts"])
def test_fmi_against_the_written_method(kind):
    rng = np.random.default_rng(3)
    visible, infrared = rng.integers(0, 256, (2, 18, 16)).astype(float)
    fused = {
        "average": (visible + infrared) / 2,
        "inverted": 255 - visible,
        "flat parts": np.where(np.arange(16) < 8, 90.0, visible),
    }[kind]
    got = [features._features(image) for image in (fused, visible)]
    assert got[0].shape == (2 * ((18 + 61) // 2), 2 * ((16 + 61) // 2))
    small = [image[26:40, 28:42] for image in got]  # includes every band
    assert features._mean_score(*small) == pytest.approx(slow_fmi(*small), abs=1e-9)
    both = [features._features(infrared), got[1]]
    expected = sum(features._mean_score(got[0], other) for other in both) / 2
    assert fusion.fmi_w(fused, visible, infrared) == pytest.approx(expected)


def test_fmi_of_the_extremes(visible, infrared, average):
    assert fusion.fmi_w(visible, visible, visible) == pytest.approx(1.0)
    flat = np.full(SHAPE, 9.0)
    assert np.isfinite(fusion.fmi_w(flat, visible, infrared))
    noise = 255 * np.random.default_rng(0).random(SHAPE)
    assert fusion.fmi_w(noise, visible, infrared) < fusion.fmi_w(average, visible, infrared)
    # a pitfall: copying one source beats every fusion
    assert fusion.fmi_w(infrared, visible, infrared) > fusion.fmi_w(average, visible, infrared)


def test_meyer_filters_are_orthogonal_and_keep_polynomials():
    low = features._meyer()
    shifted = [low[2 * k :] @ low[: len(low) - 2 * k] for k in range(8)]
    np.testing.assert_allclose(shifted, [1, 0, 0, 0, 0, 0, 0, 0], atol=2e-3)
    ramp = np.arange(200.0)[None].repeat(2, 0)
    smooth, detail = features._split(ramp, 1)
    np.testing.assert_allclose(detail[:, 40:-40], 0, atol=1e-2)
    np.testing.assert_allclose(np.diff(smooth[0, 40:-40]), 2 * math.sqrt(2), atol=1e-2)


def test_wavelet_against_pywavelets(visible):
    pywt = pytest.importorskip("pywt", reason="needs PyWavelets")
    smooth, (lying, standing, corners) = pywt.dwt2(visible, "dmey", mode="symmetric")
    expected = np.block([[smooth, lying], [standing, corners]])
    # its taps have another origin, and their sum is 0.11 % larger
    np.testing.assert_allclose(features._features(visible), expected, rtol=3e-3, atol=3)


def slow_q_cv(fused, sources, vifb=False) -> float:
    """Chen and Varshney's metric, region by region and frequency by frequency."""

    def stretch(image):
        return np.round(255 * (image - image.min()) / np.ptp(image)) if vifb else image

    fused = stretch(fused)
    height, width = fused.shape
    kernel = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    weighed = weights = 0.0
    for source in map(stretch, sources):
        spectrum = np.fft.fft2(source - fused)
        for k in range(height):
            for m in range(width):
                cycles = [min(k, height - k), min(m, width - m)]
                r = math.hypot(cycles[0] / 4, cycles[1] / 4)
                spectrum[k, m] *= 2.6 * (0.0192 + 0.144 * r) * math.exp(-((0.144 * r) ** 1.1))
        seen = np.fft.ifft2(spectrum).real
        padded = np.pad(source, 1, mode="constant" if vifb else "edge")
        for top in range(0, height, 16):
            for left in range(0, width, 16):
                saliency, squares, pixels = 0.0, 0.0, 0
                for row in range(top, min(top + 16, height)):
                    for col in range(left, min(left + 16, width)):
                        patch = padded[row : row + 3, col : col + 3]
                        gradient = math.hypot((kernel * patch).sum(), (kernel.T * patch).sum())
                        saliency += gradient**5
                        squares += seen[row, col] ** 2
                        pixels += 1
                weighed += saliency * squares / (256 if vifb else pixels)
                weights += saliency
    return weighed / weights


@pytest.mark.parametrize("vifb", [False, True])
@pytest.mark.parametrize("shape", [(48, 32), (37, 51)])
def test_q_cv_against_the_written_method(visible, infrared, shape, vifb):
    rows, cols = shape
    visible, infrared = visible[:rows, :cols], infrared[:rows, :cols]
    fused = np.rint(0.7 * visible + 0.3 * infrared)
    expected = slow_q_cv(fused, [visible, infrared], vifb)
    assert fusion.q_cv(fused, visible, infrared, vifb=vifb) == pytest.approx(expected)


def test_q_cv_of_the_extremes(visible, infrared):
    assert fusion.q_cv(visible, visible, visible) == pytest.approx(0)
    flat = np.full(SHAPE, 9.0)
    assert fusion.q_cv(flat, flat, flat) == 0
    assert fusion.q_cv(visible, flat, flat) == 0  # constant sources have no saliency
    inverted = 255 - visible
    better, worse = (fusion.q_cv(image, visible, visible) for image in (infrared, inverted))
    assert 0 < better < worse


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_against_torchmetrics(visible, infrared, average):
    pytest.importorskip("torchmetrics", reason="needs torchmetrics (extra: train)")
    import torch
    from torchmetrics.functional import pearson_corrcoef
    from torchmetrics.functional.clustering import mutual_info_score
    from torchmetrics.functional.image import (
        structural_similarity_index_measure,
        visual_information_fidelity,
    )

    fused = np.rint(average)
    tensors = [torch.tensor(image)[None, None] for image in (fused, visible, infrared)]
    pairs = [(tensors[0], source) for source in tensors[1:]]
    ours = [
        f(fused, visible, infrared)
        for f in (fusion.correlation, fusion.mutual_information, fusion.vif, fusion.ssim)
    ]
    correlation = sum(pearson_corrcoef(a.ravel(), b.ravel()) for a, b in pairs) / 2
    assert ours[0] == pytest.approx(float(correlation), abs=1e-9)
    nats = sum(mutual_info_score(a.ravel().long(), b.ravel().long()) for a, b in pairs)
    assert ours[1] == pytest.approx(float(nats) / math.log(2), abs=1e-5)
    vif = sum(visual_information_fidelity(a, b) for a, b in pairs)
    assert ours[2] == pytest.approx(float(vif), rel=1e-4)
    # it also averages windows across the border; ours, like the paper's, does not
    maps = [
        structural_similarity_index_measure(a, b, data_range=255.0, return_full_image=True)[1]
        for a, b in pairs
    ]
    ssim = sum(values[..., 5:-5, 5:-5].mean() for values in maps) / 2
    assert ours[3] == pytest.approx(float(ssim), abs=1e-6)


def test_against_scikit_image_and_scipy(visible, infrared, average):
    image = np.rint(average)
    assert fusion.entropy(image) == pytest.approx(shannon_entropy(image))
    # skimage divides the kernel by 4 and the sum of squares by 2
    expected = 4 * math.sqrt(2) * sobel(image, mode="nearest").mean()
    assert fusion.edge_intensity(image) == pytest.approx(expected)
    coarse = [np.clip(i // 32, 2, 5) for i in (image, visible)]  # every level is used
    shares = [np.bincount(i.astype(int).ravel())[2:] for i in coarse]
    assert all(share.all() for share in shares)
    expected = stats.entropy(shares[1], shares[0], base=2)
    assert fusion.cross_entropy(coarse[0], coarse[1], coarse[1]) == pytest.approx(expected)


def test_every_metric_is_described():
    page = Path(__file__).resolve().parents[2] / "docs" / "reference" / "metrics.md"
    text = page.read_text(encoding="utf-8")
    for name, metric in fusion.METRICS.items():
        assert f"| {metric.symbol} |" in text, metric.symbol
        assert f"`{name}`" in text, name


def test_bad_images_are_named(visible):
    with pytest.raises(ValueError, match="infrared must be a grey"):
        fusion.scd(visible, visible, np.zeros((60, 76, 3)))
    with pytest.raises(TypeError, match="fused: got dtype complex128"):
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
