"""Installable registration tools, each called as its documentation shows, without tuning.

A peer is a function of ``fixed`` and ``moving``, grey float32 images in [0, 1] of one size. It
returns the source map ``(2, H, W)``, the (row, col) of the moving image for every fixed pixel, or
raises. Tools with a mask receive the empty border of the moving image. Edges near that border are
removed from edge images.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_busref.images.preprocess import empty_border
from napari_busref.metrics.registration import pixel_grid

Image = NDArray[np.float32]
Source = NDArray[np.float64]

EDGE_SIGMA = 1.5
"""Smoothing, in pixels, of the gradient magnitude that ECC and pystackreg compare."""


@dataclass(frozen=True)
class Peer:
    """A registration tool.

    Attributes
    ----------
    run : callable
        ``run(fixed, moving)`` gives the source map.
    package, module : str
        Names for pip and for import; empty when the peer needs no package.
    """

    run: Callable[[Image, Image], Source]
    package: str = ""
    module: str = ""

    def missing(self) -> str | None:
        """Why the tool cannot be imported, or None."""
        if not self.module:
            return None
        try:
            import_module(self.module)
        except Exception as error:  # a compiled package fails in many ways
            return f"{self.package}: {type(error).__name__}: {error}"
        return None

    def version(self) -> str:
        """The installed package and its version."""
        if not self.package:
            return ""
        try:
            return f"{self.package} {version(self.package)}"
        except PackageNotFoundError:
            return self.package


def identity(fixed: Image, moving: Image) -> Source:
    """The pair without registration."""
    return pixel_grid(fixed.shape)


def sift(fixed: Image, moving: Image) -> Source:
    """OpenCV SIFT, ratio test, affine by RANSAC."""
    import cv2

    detector = cv2.SIFT_create()
    found = [
        detector.detectAndCompute(np.rint(image * 255).astype(np.uint8), mask)
        for image, mask in ((fixed, None), (moving, nonempty(moving).astype(np.uint8)))
    ]
    (fixed_keys, fixed_words), (moving_keys, moving_words) = found
    if min(len(fixed_keys), len(moving_keys)) < 3:
        raise ValueError(f"{len(fixed_keys)} and {len(moving_keys)} keypoints, need 3")
    candidates = cv2.BFMatcher().knnMatch(fixed_words, moving_words, k=2)
    matches = [best for best, second in candidates if best.distance < 0.8 * second.distance]
    if len(matches) < 3:
        raise ValueError(f"{len(matches)} matches, need 3")
    matrix, _ = cv2.estimateAffine2D(
        np.float32([fixed_keys[match.queryIdx].pt for match in matches]),
        np.float32([moving_keys[match.trainIdx].pt for match in matches]),
        method=cv2.RANSAC,
        ransacReprojThreshold=3.0,
    )
    if matrix is None:
        raise ValueError(f"no affine fits the {len(matches)} matches")
    return affine_source(matrix, fixed.shape)


def ecc(fixed: Image, moving: Image) -> Source:
    """OpenCV ECC, affine, on the gradient magnitude, coarse to fine."""
    import cv2

    valid = nonempty(moving)
    matrix = np.eye(2, 3, dtype=np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 200, 1e-6)
    for step in (8, 4, 2, 1):
        # with every step-th pixel, pixel (0, 0) does not move: only the shift changes its unit
        sigma = EDGE_SIGMA * step
        small_fixed, small_moving, mask = (
            np.ascontiguousarray(image[::step, ::step])
            for image in (
                edge_image(fixed, sigma),
                edge_image(moving, sigma, valid),
                _away_from_border(valid, sigma).astype(np.uint8),
            )
        )
        matrix[:, 2] /= step
        _, matrix = cv2.findTransformECC(
            small_fixed, small_moving, matrix, cv2.MOTION_AFFINE, stop, mask, 5
        )
        matrix[:, 2] *= step
    return affine_source(matrix, fixed.shape)


def stackreg(fixed: Image, moving: Image) -> Source:
    """Pystackreg (TurboReg), affine, on the gradient magnitude."""
    from pystackreg import StackReg

    images = edge_image(fixed, EDGE_SIGMA), edge_image(moving, EDGE_SIGMA, nonempty(moving))
    matrix = StackReg(StackReg.AFFINE).register(*images)
    return affine_source(matrix[:2], fixed.shape)


def simpleitk(fixed: Image, moving: Image) -> Source:
    """SimpleITK, affine by Mattes mutual information, four resolutions."""
    import SimpleITK as sitk

    target, other = sitk.GetImageFromArray(fixed), sitk.GetImageFromArray(moving)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=32)
    method.SetMetricMovingMask(sitk.GetImageFromArray(nonempty(moving).astype(np.uint8)))
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel([1.0, 1.0, 0.5, 0.25], seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-4, numberOfIterations=300
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([8, 4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 1, 0])
    initial = sitk.CenteredTransformInitializer(
        target, other, sitk.AffineTransform(2), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method.SetInitialTransform(initial, inPlace=False)
    transform = method.Execute(target, other)
    field = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        target.GetSize(),
        target.GetOrigin(),
        target.GetSpacing(),
        target.GetDirection(),
    )
    return _displaced(sitk.GetArrayFromImage(field))


def elastix(fixed: Image, moving: Image) -> Source:
    """Elastix, affine and B-spline by mutual information, control points 1/8 of a side apart."""
    import itk

    target, other = itk.image_from_array(fixed), itk.image_from_array(moving)
    parameters = itk.ParameterObject.New()
    for kind in ("affine", "bspline"):
        # the default spacing of 10 mm suits medical images, not pixels
        spacing = min(fixed.shape) / 8
        settings = parameters.GetDefaultParameterMap(kind, 4, spacing)
        settings["WriteResultImage"] = ["false"]
        parameters.AddParameterMap(settings)
    method = itk.ElastixRegistrationMethod.New(target, other)
    method.SetMovingMask(itk.image_from_array(nonempty(moving).astype(np.uint8)))
    method.SetParameterObject(parameters)
    method.SetLogToConsole(False)
    method.UpdateLargestPossibleRegion()
    # without a folder, transformix writes deformationField.nii to the working directory
    with tempfile.TemporaryDirectory() as folder:
        field = itk.transformix_deformation_field(
            other, method.GetTransformParameterObject(), output_directory=folder
        )
        displacement = itk.array_from_image(field).copy()
    return _displaced(displacement)


def ants(fixed: Image, moving: Image) -> Source:
    """ANTs SyNRA: rigid, affine and SyN, all by mutual information."""
    import ants as antspy
    import pandas as pd

    # ANTs takes the first axis of an array as x: its points are (row, col)
    target, other = antspy.from_numpy(fixed), antspy.from_numpy(moving)
    positions = pixel_grid(fixed.shape)
    points = pd.DataFrame({"x": positions[0].ravel(), "y": positions[1].ravel()})
    with tempfile.TemporaryDirectory() as folder:
        found = antspy.registration(
            target,
            other,
            type_of_transform="SyNRA",
            aff_metric="mattes",
            syn_metric="mattes",
            moving_mask=antspy.from_numpy(nonempty(moving).astype(np.float32)),
            mask_all_stages=True,
            outprefix=os.path.join(folder, "warp"),
        )
        # transforms that warp the moving image map points from fixed to moving
        moved = antspy.apply_transforms_to_points(2, points, found["fwdtransforms"])
    return moved[["x", "y"]].to_numpy(np.float64).T.reshape(positions.shape)


PEERS: dict[str, Peer] = {
    "identity": Peer(identity),
    "sift": Peer(sift, "opencv-python-headless", "cv2"),
    "ecc": Peer(ecc, "opencv-python-headless", "cv2"),
    "stackreg": Peer(stackreg, "pystackreg", "pystackreg"),
    "simpleitk": Peer(simpleitk, "SimpleITK", "SimpleITK"),
    "elastix": Peer(elastix, "itk-elastix", "itk"),
    "ants": Peer(ants, "antspyx", "ants"),
}


def nonempty(moving: Image) -> NDArray[np.bool_]:
    """True inside the empty border of a warped image."""
    return ~empty_border(moving, "moving")


def _away_from_border(valid: NDArray[np.bool_], sigma: float) -> NDArray[np.bool_]:
    """True where scipy's filters of this sigma, cut at 4 sigma, do not reach the empty border."""
    return ndi.minimum_filter(valid, 2 * round(4 * sigma) + 1)


def edge_image(image: Image, sigma: float, valid: NDArray[np.bool_] | None = None) -> Image:
    """Gradient magnitude, 1 at its 99th percentile, and 0 near the empty border."""
    edges: Image = ndi.gaussian_gradient_magnitude(image.astype(np.float32), sigma)
    if valid is not None:
        edges[~_away_from_border(valid, sigma)] = 0
    # below 1e-3 per pixel the image is flat, and only rounding remains
    return edges / max(float(np.percentile(edges, 99)), 1e-3)


def affine_source(matrix: NDArray[np.floating], shape: tuple[int, ...]) -> Source:
    """Source map of a 2 x 3 matrix from fixed (x, y, 1) to moving (x, y)."""
    rows, cols = pixel_grid(shape)
    (a, b, x), (c, d, y) = np.asarray(matrix, np.float64)
    return np.stack([c * cols + d * rows + y, a * cols + b * rows + x])


def _displaced(field: NDArray[np.floating]) -> Source:
    """Source map of a displacement field ``(H, W, 2)`` of (x, y)."""
    return pixel_grid(field.shape) + np.moveaxis(field.astype(np.float64), -1, 0)[::-1]
