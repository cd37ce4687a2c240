"""Recipes: small typed configurations read from TOML files."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from napari_busref.training.stage_names import STAGES

T = TypeVar("T")


@dataclass(frozen=True)
class DataConfig:
    """Which aligned pairs are trained on and how they are cropped.

    Attributes
    ----------
    datasets : tuple of str
        Names that ``datasets.load_pairs`` understands.
    root : str
        Folder of the data sets; empty for ``../shared/data`` beside the checkout.
    store_side : int
        Images are kept in memory with at most this shorter side, in pixels.
    crop_side : int
        Crops have the area of a square with this side; their aspect varies.
    crop_range : tuple of float
        Smallest and largest share of the picture's side that a crop takes in.
    aspects : tuple of float
        Width over height of the crops; a batch has one of them.
    realign : str
        Weights of a likelihood network, a name or a file, by which the training pairs are laid on
        each other anew before the first step: pairs aligned by hand are off by one to four
        pixels. Empty to trust the pairs.
    """

    datasets: tuple[str, ...] = ("roadscene", "vis-nir")
    root: str = ""
    store_side: int = 224
    crop_side: int = 128
    crop_range: tuple[float, float] = (0.6, 1.0)
    aspects: tuple[float, ...] = (1.0, 1.25, 1.5, 1.78)
    realign: str = ""


@dataclass(frozen=True)
class WarpConfig:
    """Ranges of the synthetic warps; the defaults are those of the measuring protocol.

    Attributes
    ----------
    rotation, shear : float
        Degrees, uniform in plus and minus.
    scale : tuple of float
        Log-uniform range.
    shift : float
        Share of the width and of the height, uniform in plus and minus.
    elastic : tuple of float
        Range of the largest elastic displacement, as a share of the shorter side.
    sigma : float
        Smoothing of the elastic noise, as a share of the shorter side.
    beyond : float
        Share of the moving images that show what lies beyond the crop instead of an empty border.
    """

    rotation: float = 10.0
    scale: tuple[float, float] = (0.9, 1.1)
    shear: float = 5.0
    shift: float = 0.08
    elastic: tuple[float, float] = (0.02, 0.04)
    sigma: float = 0.08
    beyond: float = 0.3


START = WarpConfig(rotation=12.0, scale=(0.88, 1.14), shear=0.0, shift=0.25)
"""Default of where the registration's first look starts while training."""


@dataclass(frozen=True)
class AugmentConfig:
    """Photometric augmentation; probabilities and ranges.

    Attributes
    ----------
    gamma, gain : tuple of float
        Ranges of exponent and factor.
    polarity : float
        Probability of an inverted infrared image.
    remap : float
        Probability that the visible image under a random intensity curve takes the place of the
        infrared one (stage matcher): any image is a training pair of a modality not seen yet.
    noise : float
        Standard deviation of additive noise (probability one half).
    blur : float
        Largest Gaussian sigma, in pixels (probability 0.3).
    """

    gamma: tuple[float, float] = (0.6, 1.7)
    gain: tuple[float, float] = (0.7, 1.2)
    polarity: float = 0.15
    remap: float = 0.25
    noise: float = 0.03
    blur: float = 1.5


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms and switches of the ablation; a stage reads its own.

    Attributes
    ----------
    ssim : float
        lambda of L_re, and sigma of L_fuse.
    fuse_gradient : float
        Weight of L_grad of the fusion network.
    fuse_intensity : float
        Our addition: weight of the distance to the brighter source (0 turns it off).
    gamma : float
        Exponent of the fusion's gradient target.
    mncc : float
        epsilon of L_reg.
    guide : float
        Weight of L_MG, the fusion guide (0: ablation "no fusion guide").
    mask : bool
        Reconstructible mask in the losses (False: ablation "no mask").
    endpoint, smooth, matching : float
        Our additions: end-point error against the known warp, smoothness of the displacement,
        cross-entropy of the descriptors' matches (0 turns each off).
    votes : float
        Cross-entropy of the votes in a local window (stage matcher).
    photometric : float
        SuperFusion: weight of 0.1 (L1 + L2) + 0.9 gradient, both directions.
    edges : float
        SuperFusion: how much more the end-point error counts where second-order gradients are
        strong.
    border : float
        SuperFusion: weight of what is shown where the other image has nothing.
    fuse, consistency : float
        SuperFusion: weights of the fusion loss on the registered pair and of the distance between
        the two fused images.
    semantic : float
        SuperFusion's fusion network: weight of the Lovász-softmax of a segmentation network on
        the fused image; needs label maps ``DATA/NAME/labels/PAIR.png`` (0 turns it off).
    segmenter : str
        That network: ``"module:function"``, where the function returns it with its weights. It
        maps colours (B, 3, H, W) in [0, 1] to logits (B, K, H, W).
    ignore : int
        Label that does not count.
    """

    ssim: float = 1.0
    fuse_gradient: float = 1.0
    fuse_intensity: float = 0.0
    gamma: float = 0.7
    mncc: float = 0.1
    guide: float = 0.1
    mask: bool = True
    endpoint: float = 1.0
    smooth: float = 0.05
    matching: float = 0.5
    votes: float = 1.0
    photometric: float = 1.0
    edges: float = 1.0
    border: float = 0.5
    fuse: float = 0.1
    consistency: float = 0.1
    semantic: float = 0.0
    segmenter: str = ""
    ignore: int = 255


@dataclass(frozen=True)
class FusionLossConfig:
    """Weights of the loss terms of the fusion networks that are not in :class:`LossConfig`.

    Attributes
    ----------
    detail : float
        Weight of the distance to the wanted gradients (``pyramid_gradient_loss``).
    gains : tuple of float
        Factor on the wanted gradients at full, half, quarter... resolution.
    window : int
        Window in which the sources' energies are compared, odd, in pixels.
    power : float
        How decidedly the stronger source is chosen.
    noise : float
        Gradients below this count as none: where both are so weak, their mean is wanted.
    brightness : float
        Weight of the distance of the local brightness to the wanted one.
    decision, contrast : float
        Which brightness is wanted (``wanted_brightness``): 0 and 0 the mean of both sources.
    image : bool
        Whether detail and brightness are wanted of one image (``target_image``).
    feature, patch, style : float
        MDA: weights of these terms beside the image level.
    deviation : float
        MDA: worth of a standard deviation beside a bit of entropy.
    temperature : float
        MDA: of the softmax over both sources.
    gradient : float
        ReFusion: what the gradient term counts beside the intensity term.
    reconstruction : float
        ReFusion: how much the fused image itself is to serve the reconstruction.
    inner_rate : float
        ReFusion: length of the inner step.
    outer_share : float
        ReFusion: share of the steps that update the loss-proposal module.
    """

    detail: float = 0.0
    gains: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    window: int = 5
    power: float = 2.0
    noise: float = 1e-4
    brightness: float = 0.0
    decision: float = 0.0
    contrast: float = 0.0
    image: bool = False
    feature: float = 0.5
    patch: float = 1.0
    style: float = 0.1
    deviation: float = 4.0
    temperature: float = 0.5
    gradient: float = 10.0
    reconstruction: float = 0.1
    inner_rate: float = 0.05
    outer_share: float = 0.5


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run.

    Attributes
    ----------
    stage : str
        One of ``STAGES``.
    steps, batch : int
        Optimiser steps, and samples a step in each process.
    learning_rate, weight_decay, warmup
        AdamW; ``warmup`` is the share of the steps in which the rate rises, a cosine follows.
    precision : str
        Of Lightning Fabric, such as ``"32-true"`` or ``"bf16-mixed"``.
    threads : int
        CPU threads of each process (0: as torch chooses).
    processes : int
        Processes (DDP when more than one).
    seed : int
        Every draw of a step follows from this, the step and the process.
    validate_every, checkpoint_every : int
        In steps.
    validation_pairs : int
        Pairs of each data set's ``val`` split that are measured during the run.
    requires : str
        Folder with the weights of the earlier stages; empty for the shipped ones.
    train_bus : bool
        Train the bus from scratch with the registration (ablation "no bus").
    start_from : str
        Model, or path of weights, that training starts from; ``model`` must be its configuration.
        Empty to start from scratch, on the trained bus where the stage has one.
    start_share : float
        In [0, 1): share of the weights of ``start_from`` that the trained ones are averaged with
        in the end, which keeps more of what the start was good at (WiSE-FT, Wortsman et al.,
        CVPR 2022).
    export : str
        Name of the weights, for a network that is trained for several tasks; empty for its own.
    start : WarpConfig
        Affine from which the registration's first look starts in training, so that descriptors
        cannot pass by matching everything to its own place.
    model : dict
        Arguments of the stage's model configuration.
    """

    stage: str
    steps: int
    batch: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: float = 0.03
    clip: float = 1.0
    precision: str = "32-true"
    threads: int = 0
    processes: int = 1
    seed: int = 0
    log_every: int = 10
    validate_every: int = 500
    checkpoint_every: int = 100
    validation_pairs: int = 20
    requires: str = ""
    train_bus: bool = False
    start_from: str = ""
    start_share: float = 0.0
    export: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    warp: WarpConfig = field(default_factory=WarpConfig)
    start: WarpConfig = field(default_factory=lambda: START)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    fusion: FusionLossConfig = field(default_factory=FusionLossConfig)
    model: dict[str, Any] = field(default_factory=dict)


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    path : path
        TOML file whose keys and tables are the fields of :class:`Recipe`.
    overrides : mapping, optional
        Replacements by dotted name, such as ``{"steps": 10, "loss.guide": 0}``.

    Raises
    ------
    ValueError
        For an unreadable file, an unknown key, a value of the wrong kind or an unknown stage.
    """
    try:
        values = tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"recipe {str(path)!r} cannot be read as TOML: {error}") from error
    for name, value in (overrides or {}).items():
        table = values
        *parents, key = name.split(".")
        for parent in parents:
            table = table.setdefault(parent, {})
        table[key] = value
    recipe = _build(Recipe, values, "")
    if recipe.stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {recipe.stage!r}")
    if recipe.steps < 1 or recipe.batch < 1:
        raise ValueError(
            f"steps and batch must be positive, got {recipe.steps} and {recipe.batch}"
        )
    if not 0 <= recipe.start_share < 1 or (recipe.start_share and not recipe.start_from):
        raise ValueError(
            f"start_share must be in [0, 1), and 0 without start_from, got {recipe.start_share}"
        )
    return recipe


def recipe_from_card(values: Mapping[str, Any]) -> Recipe:
    """The recipe that a card holds; keys of other versions are passed over."""
    return _build(Recipe, _known(Recipe, values), "")


def _known(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    known = {}
    for field_ in dataclasses.fields(kind):
        if field_.name in values:
            value, default = values[field_.name], None
            if field_.default_factory is not dataclasses.MISSING:
                default = field_.default_factory()
            known[field_.name] = (
                _known(type(default), value) if dataclasses.is_dataclass(default) else value
            )
    return known


def _build(kind: type[T], values: Mapping[str, Any], prefix: str) -> T:
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = [prefix + name for name in values if name not in fields]
    if unknown:
        raise ValueError(
            f"recipe: unknown key {', '.join(unknown)}; accepted are "
            + ", ".join(prefix + name for name in fields)
        )
    missing = [
        prefix + name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and name not in values
    ]
    if missing:
        raise ValueError(f"recipe: {', '.join(missing)} must be given")
    return kind(
        **{name: _convert(fields[name], value, prefix + name) for name, value in values.items()}
    )


def _convert(field_: dataclasses.Field[Any], value: Any, name: str) -> Any:
    default = field_.default
    if field_.default_factory is not dataclasses.MISSING:
        default = field_.default_factory()
    if dataclasses.is_dataclass(default):
        if not isinstance(value, Mapping):
            raise ValueError(f"recipe: {name} must be a table, got {value!r}")
        return _build(type(default), value, name + ".")
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple):
            raise ValueError(f"recipe: {name} must be a list, got {value!r}")
        return tuple(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = {"stage": str, "steps": int}.get(name, type(default))
    if not isinstance(value, expected):
        raise ValueError(f"recipe: {name} must be {expected.__name__}, got {value!r}")
    return value
