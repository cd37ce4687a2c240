"""Carrying layers of any type along a transform.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from napari.layers import Layer

from napari_busref._napari.apply_transform.by_type import carried
from napari_busref._napari.apply_transform.pixel_mapping import Route
from napari_busref._napari.layers.grids import Rescaled
from napari_busref._napari.layers.result import PlaneResult
from napari_busref.runtime.progress import Progress, Reporter
from napari_busref.transforms.transform import Transform

__all__ = ["apply_transform", "carry_over"]


def apply_transform(
    layers: Sequence[Layer],
    transform: Transform | Rescaled,
    fixed: Layer,
    moving: Layer | None = None,
    *,
    inverse: bool = False,
    axes: tuple[int, int] = (-2, -1),
    planes: Mapping[tuple[int, ...], PlaneResult] | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[Layer]:
    """Carry layers from the moving to the fixed image, or back.

    Images are resampled (linear), labels too (nearest, their type is kept), stacks plane by plane;
    positions are moved: points, shapes, vectors and tracks. What is not a numpy array (dask, zarr,
    pyramids) is computed when it is looked at, and so are images of more than 4096 x 4096 pixels
    along a transform that bends.

    Parameters
    ----------
    layers : sequence of Layer
        Image, Labels, Points, Shapes, Vectors or Tracks; not changed.
    transform : Transform or Rescaled
        From fixed to moving pixels; the latter is ``metadata["napari-busref"]["rescaled"]`` of
        layers so large that their dense displacement field is not made.
    fixed : Layer
        The fixed layer, or any layer that lies on it, such as a result of the registration.
    moving : Layer, optional
        The moving layer. Needed to go back, and for layers whose pixels are not those of the
        moving image: those are found by their place in the world.
    inverse : bool
        False: what belongs to the moving image is brought to the fixed one. True: what belongs to
        the fixed image is brought to the moving one.
    axes : tuple of int
        The two dimensions that the images extend along, counted from the last one.
    planes : mapping, optional
        ``metadata["napari-busref"]["planes"]`` of a stack that was registered plane by plane: from
        the position along the other dimensions to what was found there. Stacks, and positions in
        them, take the transform of their plane; all else takes `transform`.
    progress : Progress, optional
        Called with the stage and the fraction done.
    cancel : threading.Event, optional
        Set it to stop after the current plane.

    Returns
    -------
    list of Layer
        New layers, in no viewer yet, named ``"<layer> on <target>"``. Along `axes` they have the
        scale, translate, rotate, shear, affine, units and axis labels of the layer that they are
        brought to, along other dimensions their own. All else is kept: colours, features, symbols,
        text, ids and graph of tracks. Where the transform is not affine, rectangles and ellipses
        become polygons, lines become paths, and outlines get vertices so that they are off by
        no more than 0.05 px. Widths and sizes of points, shapes and vectors are scaled like the
        image.

    Raises
    ------
    ValueError
        When a layer is of another type, has too few dimensions, is turned out of the plane of the
        images, or nothing says where it lies; when the transform is for other images or cannot be
        inverted.
    Cancelled
        When `cancel` was set.

    Notes
    -----
    Images and labels that have as many pixels as the image they belong to, and that nobody has
    placed anywhere, are taken pixel by pixel. All other layers are taken where they are seen.

    Examples
    --------
    >>> labels = Labels(np.eye(4, dtype=int), name="cells")
    >>> shape = (4, 4)
    >>> down = [[1, 0, 1], [0, 1, 0], [0, 0, 1]]
    >>> transform = Transform(down, fixed_shape=shape, moving_shape=shape)
    >>> (on_fixed,) = carry_over([labels], transform, Image(np.zeros(shape), name="vis"))
    >>> on_fixed.name, on_fixed.data[0].tolist()
    ('cells on vis', [0, 1, 0, 0])
    """
    route = Route.between(transform, fixed, moving, inverse, axes, planes)
    reporter = Reporter(progress, cancel)
    new = []
    for number, layer in enumerate(layers):
        part = reporter.part(number / len(layers), (number + 1) / len(layers))
        new.append(carried(layer, route, part))
    return new


carry_over = apply_transform  # the name that scripts written before the panel's rename use
