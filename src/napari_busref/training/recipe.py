"""Recipes: small typed configurations read from TOML files."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from napari_busref.metrics.registration import WarpRanges
from napari_busref.training.stage_names import STAGES

T = TypeVar("T")

_LARGEST = 1e9
#: Smallest and largest accepted numbers; others may be anything from 0 to a thousand million.
_LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("steps", "log_every", "validate_every", "checkpoint_every"), (1, _LARGEST)),
    **dict.fromkeys(("batch", "processes"), (1, 4096)),
    **dict.fromkeys(("store_side", "crop_side"), (8, 16384)),
    "average": (0, 0.9999),
    **dict.fromkeys(("warmup", "polarity", "remap", "dark", "flat", "beyond"), (0, 1)),
    "threads": (0, 4096),
    "window": (1, 255),
    "seed": (0, 2**63 - 1),
}

_PROTOCOL = WarpRanges()


@dataclass(frozen=True)
class DataConfig:
    """Aligned pairs to train on, and how to crop them.

    Attributes
    ----------
    datasets : tuple of str
        Names of data sets, see ``data.datasets.load_pairs``. Each pair is drawn as often as its
        data set is named.
    root : str
        Folder of the data sets; empty for ``../shared/data`` beside the checkout.
    store_side : int
        Largest shorter side of the images in memory, in pixels.
    crop_side : int
        Crops have the area of a square with this side, in pixels; their aspect varies.
    crop_range : tuple of float
        Smallest and largest extent of a crop, as a fraction of the largest window of its aspect.
    aspects : tuple of float
        Width over height of the crops; all crops of a batch share one.
    realign : str
        Weights of a likelihood network, a name or a file, that realigns the training pairs before
        they are first drawn: alignment by hand is off by 1 to 4 px. Pairs that would move by more
        stay as they are. Empty to keep all.
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
    """Ranges of the synthetic warps; the defaults are those of the protocol, see `WarpRanges`.

    Attributes
    ----------
    rotation, shear : float
        Largest absolute value in degrees (uniform).
    scale : tuple of float
        Smallest and largest scale (log-uniform).
    shift : float
        Largest absolute shift, as a fraction of the width and of the height (uniform).
    elastic : tuple of float
        Range of the largest elastic displacement, as fractions of the shorter side.
    sigma : float
        Standard deviation that smooths the elastic noise, as a fraction of the shorter side.
    beyond : float
        Fraction of the moving images that show the scene beyond the crop; the others have an
        empty border there.
    """

    rotation: float = _PROTOCOL.rotation_deg
    scale: tuple[float, float] = _PROTOCOL.scale
    shear: float = _PROTOCOL.shear_deg
    shift: float = _PROTOCOL.translation
    elastic: tuple[float, float] = _PROTOCOL.elastic
    sigma: float = _PROTOCOL.smoothing
    beyond: float = 0.3


START = WarpConfig(rotation=12.0, scale=(0.88, 1.14), shear=0.0, shift=0.25)
"""Default ranges of the initial affine of the registration stage."""


@dataclass(frozen=True)
class AugmentConfig:
    """Photometric augmentation: probabilities and ranges.

    Attributes
    ----------
    gamma, gain : tuple of float
        Ranges of exponent and factor.
    polarity : float
        Probability of an inverted infrared image.
    remap : float
        Probability that a modality made from the visible image replaces the infrared one (stages
        matcher, likelihood and auto). Any image then makes a pair of a new modality.
    modalities : tuple of str
        Those to draw from, see ``training.batches.modalities.MODALITIES``.
    noise : float
        Standard deviation of additive noise (probability one half).
    blur : float
        Largest Gaussian sigma, in pixels (probability 0.3).
    dark : float
        Probability of a dark scene: gamma in 1.5 to 3, then a factor in 0.3 to 1. It darkens the
        visible image, and in half of these samples the infrared one alike.
    flat : float
        Probability that one random grey level replaces both images.
    local_contrast : float
        Stage matcher: probability that both images get one local mean and contrast, as in the
        wide search.
    """

    gamma: tuple[float, float] = (0.6, 1.7)
    gain: tuple[float, float] = (0.7, 1.2)
    polarity: float = 0.15
    remap: float = 0.25
    modalities: tuple[str, ...] = ("curve",)
    noise: float = 0.03
    blur: float = 1.5
    dark: float = 0.0
    flat: float = 0.0
    local_contrast: float = 0.0


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms and switches of the ablation; each stage reads its own.

    A weight of 0 turns its term off.

    Attributes
    ----------
    ssim : float
        lambda of L_re, and sigma of L_fuse.
    fuse_gradient : float
        Weight of L_grad of the fusion network.
    fuse_intensity : float
        Our addition: weight of the distance to the brighter source.
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
        cross-entropy of the matches of descriptors.
    votes : float
        Stage matcher: cross-entropy of the aggregated local correlations.
    search : float
        Stage matcher: cross-entropy of the true translation among those that a search compares.
    photometric : float
        SuperFusion: weight of 0.1 (L1 + L2) + 0.9 gradient, both directions.
    edges : float
        SuperFusion: added weight of the end-point error at strong second-order gradients.
    border : float
        SuperFusion: weight of warped content outside the other image.
    fuse, consistency : float
        SuperFusion: weights of the fusion loss on the registered pair and of the distance between
        the two fused images.
    semantic : float
        SuperFusion's fusion network: weight of the Lovász-softmax of a segmentation network on
        the fused image. Needs label maps ``DATA/NAME/labels/PAIR.png``.
    segmenter : str
        That network: ``"module:function"``, where the function returns it with its weights. It
        maps colours (B, 3, H, W) in [0, 1] to logits (B, K, H, W).
    ignore : int
        Label to leave out.
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
    search: float = 0.0
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
    """Loss weights of the fusion networks, beside those in :class:`LossConfig`.

    Attributes
    ----------
    detail : float
        Weight of the distance to the target gradients (``pyramid_gradient_loss``).
    gains : tuple of float
        Factor on the target gradients at full, half, quarter... resolution.
    window : int
        Window for comparing the energies of the sources, odd, in pixels.
    power : float
        Exponent on the energies; a large one selects the stronger source.
    noise : float
        Gradients below this count as none. Where both sources are this weak, the target is their
        mean.
    brightness : float
        Weight of the distance of the local brightness to its target.
    decision, contrast : float
        Set the target brightness (``target_brightness``); 0 and 0 give the mean of both sources.
    image : bool
        Take detail and brightness from one target image (``target_image``).
    feature, patch, style : float
        MDA: weights of these terms beside the image level.
    deviation : float
        MDA: weight of a standard deviation relative to a bit of entropy.
    temperature : float
        MDA: of the softmax over both sources.
    gradient : float
        ReFusion: weight of the gradient term relative to the intensity term.
    reconstruction : float
        ReFusion: weight of the reconstruction loss on the fusion module.
    inner_rate : float
        ReFusion: length of the inner step.
    outer_share : float
        ReFusion: fraction of the steps that update the loss-proposal module.
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
    """All settings of a training run.

    Attributes
    ----------
    stage : str
        One of ``STAGES``.
    steps, batch : int
        Optimiser steps, and samples per step in each process.
    cpu_hours : float
        What the training costs on one core; 0 where that is not known.
    learning_rate, weight_decay, warmup
        Of AdamW. The rate rises during the fraction ``warmup`` of the steps; a cosine follows.
    clip : float
        Largest norm of the gradients.
    average : float
        In [0, 1): the result is an exponential average of the weights with this decay in each
        step. A long run may then be stopped anywhere. 0 for the weights of the last step.
    precision : str
        Of Lightning Fabric, such as ``"32-true"`` or ``"bf16-mixed"``.
    threads : int
        CPU threads of each process (0: torch chooses).
    processes : int
        Processes (DDP when more than one).
    seed : int
        Seed, step and process determine every random draw of a step.
    log_every, validate_every, checkpoint_every : int
        In steps.
    validation_pairs : int
        Pairs of each data set's ``val`` split to measure during the run.
    requires : str
        Folder with the weights of the earlier stages; empty for the shipped ones.
    train_bus : bool
        Train the bus from scratch with the registration (ablation "no bus").
    start_from : str
        Model, or path of weights, to start from; ``model`` must be its configuration. Empty to
        start from scratch, on the trained bus where the stage has one.
    start_share : float
        In [0, 1): weight of ``start_from`` in the final average with the trained weights. It
        preserves strengths of the start (WiSE-FT, Wortsman et al., CVPR 2022).
    export : str
        Name of the weights, for a network with several tasks; empty for the stage's own.
    start : WarpConfig
        Ranges of the initial affine of the registration stage. Far starts keep descriptors from
        encoding positions instead of content.
    model : dict
        Arguments of the stage's model configuration.
    """

    stage: str
    steps: int
    cpu_hours: float = 0.0
    batch: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: float = 0.03
    clip: float = 1.0
    average: float = 0.0
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


def load_recipe(
    path: str | Path, overrides: Mapping[str, Any] | None = None, *, gpu: bool = False
) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    path : path
        TOML file whose keys and tables are the fields of :class:`Recipe`. Its table ``[gpu]``
        holds the values that differ on a GPU.
    overrides : mapping, optional
        Replacements by dotted name, such as ``{"steps": 10, "loss.guide": 0}``.
    gpu : bool
        Apply the table ``[gpu]``, before the overrides.

    Raises
    ------
    ValueError
        For an unreadable file, an unknown key, a value of the wrong kind or an unknown stage.
    """
    try:
        values = tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"recipe {str(path)!r} cannot be read as TOML: {error}") from error
    for_gpu = values.pop("gpu", {})
    if not isinstance(for_gpu, Mapping):
        raise ValueError(f"recipe: gpu must be a table, got {for_gpu!r}")
    if gpu:
        _merge(values, for_gpu)
    for name, value in (overrides or {}).items():
        table = values
        *parents, key = name.split(".")
        for parent in parents:
            table = table.setdefault(parent, {})
        table[key] = value
    recipe = _build(Recipe, values, "")
    if recipe.stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {recipe.stage!r}")
    if not 0 <= recipe.start_share < 1 or (recipe.start_share and not recipe.start_from):
        raise ValueError(
            f"start_share must be in [0, 1), and 0 without start_from, got {recipe.start_share}"
        )
    return recipe


def changed_settings(
    recipe: Recipe, stored: Mapping[str, Any], ignored: Sequence[str] = ()
) -> str:
    """Name the settings in which a recipe differs from one that was stored as JSON.

    Paths of earlier weights and costs do not count; neither do the ``ignored`` settings, by their
    dotted names.

    Returns
    -------
    str
        Such as ``"learning_rate changed from 0.001 to 0.002"``; empty without a difference.
    """
    now, before = (_flat(dataclasses.asdict(one)) for one in (recipe, recipe_from_card(stored)))
    skipped = {"cpu_hours", "requires", "start_from", *ignored}
    changed = [
        f"{name} changed from {before.get(name)} to {now.get(name)}"
        for name in dict.fromkeys([*now, *before])
        if now.get(name) != before.get(name) and name not in skipped
    ]
    return ", ".join(changed)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def recipe_from_card(values: Mapping[str, Any]) -> Recipe:
    """Build the recipe that a card holds; keys of other versions are ignored."""
    return _build(Recipe, _known(Recipe, values), "")


def _merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Write nested ``changes`` into nested ``values``."""
    for key, value in changes.items():
        if isinstance(value, Mapping):
            _merge(values.setdefault(key, {}), value)
        else:
            values[key] = value


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
        return _list(default, value, name)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    expected = {"stage": str, "steps": int}.get(name, type(default))
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise ValueError(f"recipe: {name} must be {expected.__name__}, got {value!r}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = _LIMITS.get(name.rpartition(".")[2], (0, _LARGEST))
        if not low <= value <= high:
            raise ValueError(f"recipe: {name} must be in [{low}, {high:g}], got {value!r}")
    return value


def _list(default: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    """A list of the kind of the default: words, numbers, or the two ends of a range."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"recipe: {name} must be a list, got {value!r}")
    if isinstance(default[0], str):
        if not all(isinstance(item, str) for item in value):
            raise ValueError(f"recipe: {name} must be a list of words, got {value!r}")
        return tuple(value)
    if not all(type(item) in (int, float) and 0 <= item <= _LARGEST for item in value):
        raise ValueError(f"recipe: {name} must be a list of numbers of at least 0, got {value!r}")
    if len(default) == 2 and (len(value) != 2 or value[0] > value[1]):
        raise ValueError(f"recipe: {name} must be two ascending numbers, got {value!r}")
    return tuple(value)
