"""`fuse`: one image from a registered visible and infrared pair."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_busref.fusion.borders import continued, fade
from napari_busref.fusion.emphasis import more_detail, more_infrared
from napari_busref.fusion.halving import fuse_halved, runs_halved
from napari_busref.fusion.skies import settle_skies
from napari_busref.fusion.stages import fusion_stages
from napari_busref.fusion.styles import Look, Style, draw
from napari_busref.fusion.tasks import model_for
from napari_busref.fusion.tiling import choose_size, run_tiles
from napari_busref.images.blocks import row_blocks
from napari_busref.images.dtypes import plus
from napari_busref.images.figures import as_picture, card, new_axes, show_picture
from napari_busref.images.nodata import NoData
from napari_busref.images.preprocess import (
    LUMA,
    Prepared,
    Scale,
    as_image,
    as_mask,
    fill_invalid,
    in_unit_range,
    prepare,
    what_was_read,
)
from napari_busref.models.inference import (
    InferenceSession,
    cancellable,
    inference_session,
    long_call,
    to_array,
    versions,
)
from napari_busref.runtime.device import describe
from napari_busref.runtime.options import check_number
from napari_busref.runtime.progress import Plan, Progress, Reporter
from napari_busref.runtime.stopwatch import Stopwatch
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["FusionResult", "fuse", "unfused"]

# Both images of these tasks are photographs of one scene: both contribute colour.
SHARED_COLOURS = ("multi-focus", "multi-exposure")


@dataclass(frozen=True, eq=False)
class FusionResult:
    """Result of `fuse`.

    Attributes
    ----------
    fused : ndarray, shape (H, W) or (H, W, 3 or 4)
        The fused image, with the shape, number type and range of the visible one. Outside the
        mask it equals the visible image exactly. Of another style than ``"natural"``, a picture
        (H, W, 3) of uint8.
    parameters : dict
        The options, model, device and versions; JSON-serialisable.
    timings : dict
        Seconds of each stage and in total.
    loss_weights : dict of ndarray, or None
        With ``loss_weights=True``, weights of the model's learned loss, float32 (H, W).
        ``"visible"`` and ``"infrared"`` weigh the distance to either image and sum to 1.
        ``"gradient"``, in (0, 2), weighs the distance to the stronger gradient. All are 0 where
        the infrared image has no content.
    """

    fused: NDArray[Any]
    parameters: dict[str, Any]
    timings: dict[str, float]
    loss_weights: dict[str, NDArray[np.float32]] | None = None

    def __repr__(self) -> str:
        return f"<FusionResult: {self.fused.shape} {self.fused.dtype}, {self._model}>"

    def _repr_html_(self) -> str:
        line = f"{self._model}, {self.fused.shape} {self.fused.dtype}"
        return card("Fused image", [line], [("fused", as_picture(self.fused, "fused"))])

    @property
    def _model(self) -> str:
        model = str(self.parameters.get("model", "?"))
        return f"model {model if len(model) < 60 else '…' + model[-59:]}"

    def plot(self, *, axes: Any = None) -> NDArray[np.object_]:
        """Plot the fused image and the weights, if there are any.

        Needs ``napari-busref[plot]``.

        Parameters
        ----------
        axes : matplotlib.axes.Axes or sequence of them, optional
            One for each image; by default a row of axes in a new figure.

        Returns
        -------
        ndarray of matplotlib.axes.Axes
            ``axes[0].figure`` is the figure. Nothing is shown.

        Raises
        ------
        ModuleNotFoundError
            Without matplotlib.
        """
        images = {"fused": self.fused} | {
            f"weight: {name}": weights for name, weights in (self.loss_weights or {}).items()
        }
        drawn = new_axes(len(images), axes)
        for one, (title, image) in zip(drawn, images.items(), strict=True):
            show_picture(one, as_picture(image, title), title, image.shape[:2])
        return np.array(drawn, dtype=object)


@long_call
def fuse(
    fixed: ArrayLike,
    moving: ArrayLike,
    *,
    model: str | os.PathLike[str] | nn.Module | None = None,
    task: str = "infrared-visible",
    infrared: float = 0.5,
    detail: float = 0.5,
    transform: Transform | None = None,
    device: str | torch.device = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
    tile: int | Literal["auto"] | None = "auto",
    mask: ArrayLike | None = None,
    nodata: NoData = "auto",
    feather: float = 16.0,
    style: Style = "natural",
    palette: str = "inferno",
    opacity: float = 0.5,
    above: float | None = None,
    below: float | None = None,
    scale_bar: bool = False,
    unit: str | None = None,
    loss_weights: bool = False,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> FusionResult:
    """Fuse a registered pair.

    The model fuses the brightness Y of the visible image (ITU-R BT.601, full range) with the
    infrared image. The chroma Cb and Cr stays: the change of Y is added to red, green and blue.
    Values beyond the model's input range stay as detail. The tasks ``"multi-focus"`` and
    ``"multi-exposure"`` may fuse two colour images of one camera. Their chroma is then the mean
    of both, weighted by the distance from grey.

    Parameters
    ----------
    fixed : array_like, shape (H, W) or (H, W, 3 or 4)
        The visible image. Any real number type, range and byte order; at least 16 x 16 px. Not
        changed. Alpha is kept.
    moving : array_like, shape (H, W) or (H, W, 3 or 4)
        The infrared image on the same grid, such as `RegistrationResult.warped`; with `transform`,
        the original infrared image. Not changed.
    model : str, path or torch.nn.Module, optional
        A name of ``list_models("fusion")``, a ``.safetensors`` file with its card, or a module
        that maps visible and infrared (B, 1, H, W) in [0, 1] to fused (B, 1, H, W). By default
        the model of the task. A name selects the weights for the task, if there are any
        (`napari_busref.fusion.tasks.TASKS`).
    task : str
        ``"infrared-visible"``, ``"medical"``, ``"multi-focus"`` or ``"multi-exposure"``.
    infrared : float
        In [0, 1]: source of the brightness of large areas. 0 takes the visible image's, 1 the
        infrared image's and 0.5 the model's; values between interpolate linearly. Fine structure
        does not change. See `napari_busref.fusion.emphasis.more_infrared`.
    detail : float
        In [0, 1]: structure finer than about 2 px is multiplied by twice this; 0.5 changes
        nothing. See `napari_busref.fusion.emphasis.more_detail`.
    transform : Transform, optional
        Registration of the pair. It warps `moving` to the fixed grid first, with linear
        interpolation, and the mask follows the valid pixels of `moving`.
    device : str or torch.device
        As for `napari_busref.register`.
    precision : {"float32", "bfloat16"}
        Number type of the network; bfloat16 is faster on some devices and needs less memory, and
        changes grey levels by up to about 2 %.
    tile : int, "auto" or None
        Side in pixels of the tiles in which the network runs, for images that exceed the memory.
        The result is that of the whole image. ``"auto"`` cuts images of more than 2.5 million
        pixels, if the model can be cut; None never cuts.
    mask : array_like of bool, shape (H, W), optional
        Valid pixels of the infrared image, such as `RegistrationResult.mask`. By default all
        except its empty border; at least one must be. NaN, infinite and transparent pixels of
        either image are always left out, and so are the masked pixels of numpy masked arrays.
    nodata : float, "auto" or None
        Value of missing pixels in both images, as for `napari_busref.register`. They are left
        out. In the fused image they are NaN, or keep their value in integers.
    feather : float
        Width in pixels of the band inside the border of the mask in which the fused image fades
        into the visible one. Its brightness already joins that of the visible image there, see
        `napari_busref.fusion.borders.continued`. 0 switches abruptly, without either.
    style : str
        ``"natural"`` is the fused image. The others need no model and give a uint8 picture
        (H, W, 3): ``"msx"``, visible edges over the palette's colours of the infrared image
        (`detail` is their strength); ``"overlay"``, these colours over the visible image;
        ``"inset"``, these colours in the middle of the overlap. `moving` keeps its values.
    palette : str
        A key of `napari_busref.fusion.styles.PALETTES` or, with matplotlib installed, one of its
        colormaps. Its ends are the ends of the infrared values without outliers.
    opacity : float
        Of the colours in an overlay, in [0, 1].
    above, below : float, optional
        Only infrared values in this range get colours (an isotherm).
    scale_bar : bool
        Draw the palette with the values at its ends. Needs `unit`.
    unit : str, optional
        Of the values of `moving`, such as ``"°C"``.
    loss_weights : bool
        Also return the weights of the model's learned loss at every pixel. ``"refusion"`` models
        have them.
    progress : Progress, optional
        Called with the stage and the fraction done.
    cancel : threading.Event, optional
        Set it to stop at the next stage or tile.

    Returns
    -------
    FusionResult

    Raises
    ------
    TypeError, ValueError
        For an invalid argument; the message names it, its value and the accepted ones.
    ArithmeticError
        When the model returns values that are not finite.
    Cancelled
        When `cancel` was set.
    MemoryError
        When the device has too little memory.

    Examples
    --------
    >>> import numpy as np
    >>> visible, infrared = np.full((16, 16), 100, np.uint8), np.full((16, 16), 200, np.uint8)
    >>> int(fuse(visible, infrared, model="average", device="cpu").fused[0, 0])
    150
    """
    stages = fusion_stages(fixed, model, task, device)
    plan, watch = Plan(Reporter(progress, cancel), stages), Stopwatch()
    plan.begin("fusion read")
    found = as_image(fixed, "fixed", nodata=nodata)
    shape = found.shape[0], found.shape[1]
    valid = None if mask is None else as_mask(mask, "mask", shape)
    if valid is not None and not valid.any():
        raise ValueError(
            "mask: no pixel is valid, need at least one that is not 0; without a mask, all of "
            "moving but its empty border is valid"
        )
    other = as_image(moving, "moving", nodata=nodata)
    feather = check_number("feather", feather)
    emphasis = check_number("infrared", infrared), check_number("detail", detail)
    look = Look(style, palette, opacity, above, below, scale_bar, unit)
    if loss_weights and style != "natural":
        raise ValueError(f"loss_weights: style {style!r} needs no model; use style='natural'")
    chosen = model_for(task, model)
    other, valid = _on_fixed_grid(other, valid, transform, shape)
    visible = prepare(found, "fixed", nodata=None)
    image = np.ma.getdata(found)
    thermal = prepare_infrared(other, valid)
    parameters = {
        "function": "fuse",
        "task": task,
        "infrared": emphasis[0],
        "detail": emphasis[1],
        "precision": precision,
        "mask": "given" if mask is not None else "found" if transform is None else "transform",
        "feather": feather,
        **look.parameters(),
        "fixed_shape": list(image.shape),
        "fixed_dtype": str(image.dtype),
        "versions": versions(),
        **what_was_read(fixed, moving, nodata),
    }
    watch.lap("prepare")
    if look.style != "natural":
        plan.begin("compose")
        fused = draw(image, visible, other, thermal, look, detail=emphasis[1], feather=feather)
        watch.lap("compose")
        plan.end("fused")
        return FusionResult(fused, parameters | {"model": "none"}, watch.total())

    both = visible.valid & thermal.valid
    weight = fade(both, feather)
    plan.begin("fusion load")
    with (
        inference_session(chosen, "fusion", device, precision) as run,
        cancellable([run.module], plan.check),
    ):
        if loss_weights:
            _require_loss_weights(run)
        halved = runs_halved(run.module, shape)
        size = choose_size(run.module, run.name, shape, tile, halved)
        watch.lap("load")
        part = plan.begin(stages[2].name)
        change, learned = np.zeros(shape, np.float32), None
        if loss_weights:
            learned = _loss_weights(run, visible, thermal, size, part.part(0.0, 0.3))
        if weight.any():
            rest = part.part(0.3 if loss_weights else 0.0, 1.0)
            pair = filled(visible, thermal)
            output = network_output(run, *pair, size, halved, rest)
            change = brightness_change(output, pair, emphasis, both, feather)
        parameters |= {"model": run.name, "device": describe(run.device), "tile": size}
    watch.lap("model")

    plan.begin("compose")
    colours = None
    if task in SHARED_COLOURS and image.ndim == other.ndim == 3:

        def colours(rows: slice) -> NDArray[np.float32]:
            return colour_change(
                image[rows], _rows(visible, rows), other[rows], _rows(thermal, rows)
            )

    fused = add_change(image, change, weight, visible, colours)
    watch.lap("compose")
    plan.end("fused")
    return FusionResult(fused, parameters, watch.total(), learned)


def unfused(fixed: ArrayLike, nodata: NoData = "auto") -> FusionResult:
    """Return the fixed image as the result, where the two images do not overlap."""
    image = np.ma.getdata(as_image(fixed, "fixed", nodata=nodata)).copy()
    parameters = {"function": "fuse", "mask": "empty", "versions": versions()}
    return FusionResult(image, parameters, {"total": 0.0})


def _require_loss_weights(run: InferenceSession) -> None:
    if not hasattr(run.module, "loss_weights"):
        raise ValueError(
            f'loss_weights: {run.name} has no learned loss weights; use model="refusion"'
        )


def _on_fixed_grid(
    moving: NDArray[Any],
    mask: NDArray[np.bool_] | None,
    transform: Transform | None,
    shape: tuple[int, int],
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """The moving image on the fixed grid, and its valid pixels; None where they are unknown."""
    if transform is None:
        if moving.shape[:2] != shape:
            raise ValueError(
                f"moving: got shape {moving.shape[:2]}, need {shape} as fixed; register the pair "
                "first and give .warped, or give its transform"
            )
        return moving, mask
    if not isinstance(transform, Transform):
        raise TypeError(f"transform: got {type(transform).__name__}, need a Transform")
    if (transform.fixed_shape, transform.moving_shape) != (shape, moving.shape[:2]):
        raise ValueError(
            f"transform: made for images of shape {transform.fixed_shape} and "
            f"{transform.moving_shape}, but fixed and moving are of shape {shape} and "
            f"{moving.shape[:2]}"
        )
    inside = transform.mask(prepare(moving, "moving", find_border=True, nodata=None).valid)
    return transform.apply(moving), inside if mask is None else mask & inside


def prepare_infrared(infrared: NDArray[Any], mask: NDArray[np.bool_] | None) -> Prepared:
    if mask is not None and not mask.any():  # an empty overlap is no error
        nothing = np.zeros(infrared.shape[:2], np.float32)
        return Prepared(nothing, nothing > 0, Scale(0.0, 0.0))
    return prepare(infrared, "moving", mask=mask, find_border=mask is None, nodata=None)


def network_output(
    run: InferenceSession,
    visible: NDArray[np.float32],
    infrared: NDArray[np.float32],
    size: int | None,
    halved: bool,
    reporter: Reporter,
) -> NDArray[np.float32]:
    """Fused brightness in [0, 1], as the model makes it, from two images (H, W) in [0, 1]."""
    if getattr(run.module, "settles_skies", False):
        infrared = settle_skies(visible, infrared)

    def network(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
        return run_network(run, first, second)

    def fuse_pair(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
        if size is None:
            return network(first, second)
        return run_tiles(network, run.module, first, second, size, reporter)

    return fuse_halved(fuse_pair, visible, infrared) if halved else fuse_pair(visible, infrared)


def brightness_change(
    fused: NDArray[np.float32],
    pair: tuple[NDArray[np.float32], NDArray[np.float32]],
    emphasis: tuple[float, float],
    mask: NDArray[np.bool_],
    feather: float,
) -> NDArray[np.float32]:
    """Fused minus visible brightness, after both sliders and the border of the mask.

    Parameters
    ----------
    fused : ndarray of float32, shape (H, W)
        From `network_output` for `pair`.
    pair : tuple of ndarray
        From `filled`.
    emphasis : tuple of float
        ``infrared`` and ``detail`` of `fuse`.
    mask : ndarray of bool, shape (H, W)
        Where both images are valid.
    feather : float
        As for `fuse`.
    """
    emphasised = more_detail(more_infrared(fused, *pair, emphasis[0]), emphasis[1])
    change = emphasised - pair[0]
    return continued(change, pair[0], mask) if feather > 0 else change


def filled(
    visible: Prepared, thermal: Prepared
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Grey values with invalid pixels filled: the network then gets no edge at their border."""
    return fill_invalid(visible.grey, visible.valid), fill_invalid(thermal.grey, thermal.valid)


def _loss_weights(
    run: InferenceSession,
    visible: Prepared,
    thermal: Prepared,
    size: int | None,
    reporter: Reporter,
) -> dict[str, NDArray[np.float32]]:
    """Weights of the network's learned loss, see `FusionResult.loss_weights`."""
    names = ("visible", "infrared", "gradient")  # as in models.fusion.refusion.LossWeights
    found = np.zeros((len(names), *visible.grey.shape), np.float32)
    if thermal.valid.any():
        first, second = filled(visible, thermal)
        module: Any = run.module

        def propose(*pair: NDArray[np.float32]) -> NDArray[np.float32]:
            weights = module.loss_weights(*(run.tensor(image) for image in pair))
            return np.stack([to_array(weight) for weight in weights])

        proposal = SimpleNamespace(receptive_field=module.weights_receptive_field)
        side = size or max(first.shape)
        found = run_tiles(propose, proposal, first, second, side, reporter, found.shape[:1])
        found[:, ~(visible.valid & thermal.valid)] = 0
    return dict(zip(names, found, strict=True))


def run_network(
    run: InferenceSession, visible: NDArray[np.float32], infrared: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Run the network on a pair; check its output and clip it to [0, 1]."""
    import torch

    shape = (1, 1, *visible.shape)
    output = run.module(run.tensor(visible), run.tensor(infrared))
    if not isinstance(output, torch.Tensor) or tuple(output.shape) != shape:
        what = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise TypeError(f"model: {run.name} returned {what}, need a tensor {list(shape)}")
    fused = to_array(output)
    if not np.isfinite(fused).all():
        raise ArithmeticError(f"model: {run.name} returned values that are not finite")
    return np.clip(fused, 0, 1)


def _rows(image: Prepared, rows: slice) -> Prepared:
    return Prepared(image.grey[rows], image.valid[rows], image.scale)


def colour_change(
    image: NDArray[Any], visible: Prepared, other: NDArray[Any], thermal: Prepared
) -> NDArray[np.float32]:
    """Change of red, green and blue, in [0, 1], to the shared chroma; brightness stays.

    B - Y and R - Y each become the mean of both images, weighted by magnitude (Prabhakar et al.,
    ICCV 2017).
    """
    first, second = (
        _chroma(source, ready) for source, ready in ((image, visible), (other, thermal))
    )
    second[~thermal.valid] = 0
    weights = np.abs(first), np.abs(second)
    total = weights[0] + weights[1]
    both = weights[0] * first + weights[1] * second
    red, blue = np.moveaxis(
        np.divide(both, total, out=first.copy(), where=total > 0) - first, -1, 0
    )
    # constant brightness: 0 = 0.299 R + 0.587 G + 0.114 B
    green = -(LUMA[0] * red + LUMA[2] * blue) / LUMA[1]
    return np.stack([red, green, blue], -1)


def _chroma(image: NDArray[Any], ready: Prepared) -> NDArray[np.float32]:
    """R - Y and B - Y, (H, W, 2), on the scale of the model's input."""
    return ready.scale.colours(image, ready.valid)[..., ::2] - ready.grey[..., None]


def add_change(
    image: NDArray[Any],
    change: NDArray[np.float32],
    weight: NDArray[np.float32],
    visible: Prepared,
    colours: Callable[[slice], NDArray[np.float32]] | None = None,
    bounded: bool | None = None,
) -> NDArray[Any]:
    """The image after a weighed change of brightness, and of colour in bands of rows.

    `bounded` keeps colours in [0, 1]; by default where all of them lie there.
    """
    fused = image.copy()
    bounded = _is_bounded(image, weight > 0) if bounded is None else bounded
    for rows in row_blocks((image.shape[0], image.shape[1])):
        step = change[rows] * weight[rows]
        tint = None if colours is None else colours(rows) * weight[rows][..., None]
        _add(fused[rows], step, tint, weight[rows] > 0, visible, bounded)
    return fused


def _is_bounded(image: NDArray[Any], where: NDArray[np.bool_]) -> bool:
    """Whether the colours there are floats that all lie in [0, 1]."""
    if image.dtype.kind != "f" or not where.any():
        return False
    return in_unit_range((image[..., :3] if image.ndim == 3 else image)[where])


def _add(
    fused: NDArray[Any],
    change: NDArray[np.float32],
    colours: NDArray[np.float32] | None,
    where: NDArray[np.bool_],
    visible: Prepared,
    bounded: bool,
) -> None:
    """Add a change of brightness, and of colour, to the image in its own range and type."""
    parts = fused[..., :3] if fused.ndim == 3 else fused
    if fused.ndim == 3:
        change, where = change[..., None], where[..., None]
    step = change if colours is None else change + colours
    values = plus(parts, step * (visible.scale.high - visible.scale.low))
    np.copyto(parts, np.clip(values, 0, 1) if bounded else values, where=where)
