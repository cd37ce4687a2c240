"""Apply a transform to layers of any type.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from napari.layers import Layer

from napari_busref._napari.apply_transform.by_type import apply_to_layer
from napari_busref._napari.apply_transform.pixel_mapping import PixelMapping
from napari_busref._napari.layers.result import PlaneResult
from napari_busref.runtime.progress import Progress, Reporter
from napari_busref.transforms.transform import Transform

__all__ = ["apply_transform", "carry_over"]


def apply_transform(
    layers: Sequence[Layer],
    transform: Transform,
    fixed: Layer,
    moving: Layer | None = None,
    *,
    inverse: bool = False,
    axes: tuple[int, int] = (-2, -1),
    planes: Mapping[tuple[int, ...], PlaneResult] | None = None,
    fill_value: float | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[Layer]:
    """Apply a transform to layers of the moving image, or its inverse to layers of the fixed one.

    Resamples images (linear) and labels (nearest), stacks plane by plane, and maps the positions
    of points, shapes, vectors and tracks. Arrays other than numpy's (dask, zarr, pyramids) are
    computed when a viewer needs them. So are images of more than 4096 x 4096 pixels under a
    transform with a displacement field.

    Parameters
    ----------
    layers : sequence of Layer
        Image, Labels, Points, Shapes, Vectors or Tracks, unchanged.
    transform : Transform
        From fixed to moving pixels.
    fixed : Layer
        The fixed layer, or any layer that lies on it, such as a result of the registration.
    moving : Layer, optional
        The moving layer. Required for the inverse, and for layers on other pixels than those of
        the moving image, which are mapped by their position in the world.
    inverse : bool
        False maps from the moving to the fixed image, True from the fixed to the moving image.
    axes : tuple of int
        Dimensions of rows and columns, counted from the last one.
    planes : mapping, optional
        ``metadata["napari-busref"]["planes"]`` of a stack that was registered plane by plane. It
        maps a position along the other dimensions to the result there. Planes of stacks, and
        points in them, use the transform of their plane, all others `transform`.
    fill_value : float, optional
        Value of images outside the source image, ``cval`` of `Transform.apply`: by default NaN
        for floats and 0 for integers. Labels are 0 there.
    progress : Progress, optional
        Called with the stage and the fraction done.
    cancel : threading.Event, optional
        Set it to stop after the current plane.

    Returns
    -------
    list of Layer
        New layers, in no viewer yet, named ``"<layer> on <target>"``. Along `axes` they have the
        scale, translate, rotate, shear, affine, units and axis labels of the target layer, along
        other dimensions their own. Colours, features, symbols, text, and ids and graph of tracks
        stay. Under a transform with a displacement field, rectangles and ellipses become polygons
        and lines become paths, within 0.05 px of the exact outline. Widths and sizes of points,
        shapes and vectors scale like the image.

    Raises
    ------
    ValueError
        When a layer is of another type, has too few dimensions, is turned out of the plane of the
        images, or has an unknown position; when the transform is for other images or cannot be
        inverted; when an image cannot hold `fill_value`.
    Cancelled
        When `cancel` is set.

    Notes
    -----
    Images and labels of the source image's size at napari's default position are mapped pixel by
    pixel. All other layers are mapped by their position in the world.

    Examples
    --------
    >>> labels = Labels(np.eye(4, dtype=int), name="cells")
    >>> shape = (4, 4)
    >>> down = [[1, 0, 1], [0, 1, 0], [0, 0, 1]]
    >>> transform = Transform(down, fixed_shape=shape, moving_shape=shape)
    >>> (on_fixed,) = apply_transform([labels], transform, Image(np.zeros(shape), name="vis"))
    >>> on_fixed.name, on_fixed.data[0].tolist()
    ('cells on vis', [0, 1, 0, 0])
    """
    mapping = PixelMapping.between(transform, fixed, moving, inverse, axes, planes)
    reporter = Reporter(progress, cancel)
    new = []
    for number, layer in enumerate(layers):
        part = reporter.part(number / len(layers), (number + 1) / len(layers))
        new.append(apply_to_layer(layer, mapping, part, fill_value))
    return new


carry_over = apply_transform  # an alias for older scripts
