"""Names of models, and building them with their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_busref.models.user_models import list_user_models
from napari_busref.models.weights import card, read_weights, weights_path

if TYPE_CHECKING:
    import torch
    from torch import nn

KINDS = ("registration", "fusion", "reconstruction", "features")
"""What a model can be for."""


@dataclass(frozen=True)
class _Entry:
    kind: str
    build: Callable[[dict[str, Any]], nn.Module]
    trained: bool
    weights: str


# by name and kind: SuperFusion has a network of each
_MODELS: dict[tuple[str, str], _Entry] = {}


def register_model(
    name: str, kind: str, *, trained: bool = True, weights: str = ""
) -> Callable[[Callable[[dict[str, Any]], nn.Module]], Callable[[dict[str, Any]], nn.Module]]:
    """Make a model known by name; decorates a function from its configuration to a module.

    Parameters
    ----------
    name : str
        Name by which users ask for it.
    kind : str
        One of ``KINDS``.
    trained : bool
        Whether it needs weights; without, it gets an empty configuration.
    weights : str
        The shipped weights are ``WEIGHTS.safetensors``; by default ``NAME.safetensors``.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")

    def wrap(
        build: Callable[[dict[str, Any]], nn.Module],
    ) -> Callable[[dict[str, Any]], nn.Module]:
        _MODELS[name, kind] = _Entry(kind, build, trained, weights or name)
        return build

    return wrap


def list_models(kind: str | None = None) -> list[str]:
    """Names of the registered models, those of the user last.

    Parameters
    ----------
    kind : str, optional
        One of ``KINDS``; all by default.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)} or None, got {kind!r}")
    own = [name for name, each in _MODELS if kind in (None, each)]
    known = {name for name, _ in _MODELS}
    return list(dict.fromkeys(own + [n for n in list_user_models(kind) if n not in known]))


def weights_name(name: str, kind: str | None = None) -> str:
    """Name of the shipped weights of a registered model; a path or another name as it is.

    Parameters
    ----------
    name : str
        One of :func:`list_models`.
    kind : str, optional
        What the model is for, where models of two kinds share a name.
    """
    entry = _find(name, kind)
    return name if entry is None else entry.weights


def _find(name: str, kind: str | None) -> _Entry | None:
    """The model of this name (or with weights of this name) and kind, else one of this name."""
    found = [entry for (each, _), entry in _MODELS.items() if name in (each, entry.weights)]
    return next((e for e in found if e.kind == kind), found[0] if found else None)


def load_model(
    name_or_path: str | Path, *, kind: str | None = None, device: str | torch.device = "cpu"
) -> nn.Module:
    """Build a model with its weights, ready for inference.

    Parameters
    ----------
    name_or_path : str or path
        A name of :func:`list_models`, or the path of a ``.safetensors`` file with its card.
    kind : str, optional
        What the model must be for.
    device : str or torch.device
        Where it is put; ``"auto"`` chooses.

    Returns
    -------
    torch.nn.Module
        In evaluation mode.

    Raises
    ------
    ValueError
        For an unknown name, weights that are missing, damaged or of another kind.
    """
    from napari_busref.device import resolve_device

    name = str(name_or_path)
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)} or None, got {kind!r}")
    target = resolve_device(device)
    entry = _find(name, kind)
    if entry is None and weights_path(name_or_path).parent == weights_path("name").parent:
        raise ValueError(
            f"model must be one of {', '.join(list_models(kind))} or the path of a .safetensors "
            f"file, got {name!r}"
        )
    if entry is not None and not entry.trained:
        _check_kind(name, entry.kind, kind)
        return entry.build({}).to(target).eval()
    weights = name_or_path if entry is None else entry.weights
    content = card(weights)
    _check_kind(name, content["kind"], kind)
    architecture = _ARCHITECTURES.get(content["architecture"])
    if architecture is None:
        raise ValueError(
            f"model {name!r}: its card names {content['architecture']!r}; known architectures are "
            + ", ".join(_ARCHITECTURES)
        )
    model = architecture(content["config"])
    try:
        model.load_state_dict(read_weights(weights, content))
    except RuntimeError as error:
        raise ValueError(
            f"model {name!r}: the weights do not fit the architecture: {error}"
        ) from error
    return model.to(target).eval()


def _check_kind(name: str, found: str, wanted: str | None) -> None:
    if wanted is not None and found != wanted:
        raise ValueError(
            f"model {name!r} is for {found}; one for {wanted} is needed: "
            + ", ".join(list_models(wanted))
        )


@register_model("auto", "registration", trained=False)
def _auto(config: dict[str, Any]) -> nn.Module:
    from napari_busref.matching.features import Networks
    from napari_busref.models.auto import Auto

    one_shot = {name: load_model(name, kind="registration") for name in ("busref", "superfusion")}
    return Auto(one_shot, Networks.load())


@register_model("busref", "registration")
def _busref(config: dict[str, Any]) -> nn.Module:
    from napari_busref.models.busref import BusRef, BusRefConfig

    return BusRef(BusRefConfig.from_plain(config))


@register_model("superfusion", "registration")
def _superfusion(config: dict[str, Any]) -> nn.Module:
    from napari_busref.models.superfusion import SuperFusionConfig, SuperFusionMatcher

    return SuperFusionMatcher(SuperFusionConfig.from_plain(config))


@register_model("identity", "registration", trained=False)
def _identity(config: dict[str, Any]) -> nn.Module:
    from napari_busref.models.controls import Identity

    return Identity()


@register_model("gaf", "fusion")
def _gaf(config: dict[str, Any]) -> nn.Module:
    from napari_busref.models.gaf import Gaf, GafConfig

    return Gaf(GafConfig(**config))


@register_model("superfusion", "fusion", weights="superfusion-fusion")
def _superfusion_fusion(config: dict[str, Any]) -> nn.Module:
    from napari_busref.models.superfusion_fusion import SuperFusionNet, SuperFusionNetConfig

    return SuperFusionNet(SuperFusionNetConfig.from_plain(config))


@register_model("mda", "fusion")
def _mda(config: dict[str, Any]) -> nn.Module:
    from napari_busref.models.mda import Mda, MdaConfig

    return Mda(MdaConfig.from_plain(config))


@register_model("refusion", "fusion")
@register_model("refusion-medical", "fusion")
@register_model("refusion-multi-focus", "fusion")
@register_model("refusion-multi-exposure", "fusion")
def _refusion(config: dict[str, Any]) -> nn.Module:
    from napari_busref.models.refusion import ReFusion, ReFusionConfig

    return ReFusion(ReFusionConfig.from_plain(config))


@register_model("average", "fusion", trained=False)
def _average(config: dict[str, Any]) -> nn.Module:
    from napari_busref.models.controls import Average

    return Average()


@register_model("maximum", "fusion", trained=False)
def _maximum(config: dict[str, Any]) -> nn.Module:
    from napari_busref.models.controls import Maximum

    return Maximum()


@register_model("laplacian", "fusion", trained=False)
def _laplacian(config: dict[str, Any]) -> nn.Module:
    from napari_busref.models.controls import LaplacianPyramid

    return LaplacianPyramid()


@register_model("guided-filter", "fusion", trained=False)
def _guided_filter(config: dict[str, Any]) -> nn.Module:
    from napari_busref.models.controls import GuidedFilter

    return GuidedFilter()


@register_model("bus", "reconstruction")
def _bus(config: dict[str, Any]) -> nn.Module:
    from napari_busref.models.bus import Bus

    return Bus(**config)


@register_model("matcher", "features")
def _matcher(config: dict[str, Any]) -> nn.Module:
    from napari_busref.models.matcher import Matcher

    return Matcher(**config)


@register_model("likelihood", "features")
def _likelihood(config: dict[str, Any]) -> nn.Module:
    from napari_busref.models.likelihood import Likelihood

    return Likelihood(**config)


_ARCHITECTURES: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "BusRef": _busref,
    "SuperFusionMatcher": _superfusion,
    "Gaf": _gaf,
    "SuperFusionNet": _superfusion_fusion,
    "Mda": _mda,
    "ReFusion": _refusion,
    "Bus": _bus,
    "Matcher": _matcher,
    "Likelihood": _likelihood,
}
