"""Registry of models: list them by name, build them with their weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_busref.models.config import check_sizes
from napari_busref.models.user_folder import list_user_models
from napari_busref.models.weights import card, read_weights, weights_path
from napari_busref.runtime.device import resolve_device

if TYPE_CHECKING:
    import torch
    from torch import nn

KINDS = ("registration", "fusion", "reconstruction", "features")
"""The kinds of models."""

Build = Callable[[dict[str, Any]], "nn.Module"]
"""Build a module from the configuration of a card."""


@dataclass(frozen=True)
class _Entry:
    kind: str
    build: Build
    trained: bool
    weights: str


def _lazy(home: str, config: str = "") -> Build:
    """Import ``module:Class`` of this package on demand, and build it from its ``config``."""

    def build(values: dict[str, Any]) -> nn.Module:
        module, name = home.split(":")
        found = import_module(f"napari_busref.{module}")
        options = [getattr(found, config).from_plain(values)] if config else []
        made: nn.Module = getattr(found, name)(*options, **({} if config else values))
        return made

    return build


# The registration room imports this one; import on demand avoids a circle.
_AUTO = _lazy("registration.auto:load_auto")
_BUSREF = _lazy("models.registration.busref:BusRef", "BusRefConfig")
_SUPERFUSION = _lazy("models.registration.superfusion:SuperFusionMatcher", "SuperFusionConfig")
_GAF = _lazy("models.fusion.gaf:Gaf", "GafConfig")
_SUPERFUSION_NET = _lazy("models.fusion.superfusion:SuperFusionNet", "SuperFusionNetConfig")
_MDA = _lazy("models.fusion.mda:Mda", "MdaConfig")
_REFUSION = _lazy("models.fusion.refusion:ReFusion", "ReFusionConfig")
_BUS = _lazy("models.features.bus:Bus")
_MATCHER = _lazy("models.features.matcher:Matcher")
_LIKELIHOOD = _lazy("models.features.likelihood:Likelihood")
_AUTO_OF_PARTS = _lazy("registration.auto:auto_of_parts")

_ARCHITECTURES: dict[str, Build] = {
    "BusRef": _BUSREF,
    "SuperFusionMatcher": _SUPERFUSION,
    "Gaf": _GAF,
    "SuperFusionNet": _SUPERFUSION_NET,
    "Mda": _MDA,
    "ReFusion": _REFUSION,
    "Bus": _BUS,
    "Matcher": _MATCHER,
    "Likelihood": _LIKELIHOOD,
    "Auto": _AUTO_OF_PARTS,
}
"""Architectures that a card may name."""

# By name and kind: SuperFusion has a network of each. Values: builder, trained, weights.
_MODELS: dict[tuple[str, str], _Entry] = {
    (name, kind): _Entry(kind, build, trained, weights or name)
    for name, kind, build, trained, weights in (
        ("auto", "registration", _AUTO, False, ""),
        ("busref", "registration", _BUSREF, True, ""),
        ("superfusion", "registration", _SUPERFUSION, True, ""),
        ("identity", "registration", _lazy("models.registration.identity:Identity"), False, ""),
        ("gaf", "fusion", _GAF, True, ""),
        ("superfusion", "fusion", _SUPERFUSION_NET, True, "superfusion-fusion"),
        ("mda", "fusion", _MDA, True, ""),
        ("refusion-multi-exposure", "fusion", _REFUSION, True, ""),
        ("refusion-multi-focus", "fusion", _REFUSION, True, ""),
        ("refusion-medical", "fusion", _REFUSION, True, ""),
        ("refusion", "fusion", _REFUSION, True, ""),
        ("average", "fusion", _lazy("models.fusion.baselines:Average"), False, ""),
        ("maximum", "fusion", _lazy("models.fusion.baselines:Maximum"), False, ""),
        ("laplacian", "fusion", _lazy("models.fusion.baselines:LaplacianPyramid"), False, ""),
        ("guided-filter", "fusion", _lazy("models.fusion.baselines:GuidedFilter"), False, ""),
        ("bus", "reconstruction", _BUS, True, ""),
        ("matcher", "features", _MATCHER, True, ""),
        ("likelihood", "features", _LIKELIHOOD, True, ""),
    )
}

_SHIPPED = frozenset(_MODELS.values())


# What each is good for, by name and kind; the scores behind it are in docs/results.md.
_PURPOSES: dict[tuple[str, str], str] = {
    ("auto", "registration"): "best of all",
    ("busref", "registration"): "small differences",
    ("superfusion", "registration"): "to compare with",
    ("identity", "registration"): "keep the start",
    ("gaf", "fusion"): "clear edges",
    ("superfusion", "fusion"): "bright areas",
    ("mda", "fusion"): "most of both",
    ("refusion-multi-exposure", "fusion"): "two exposures",
    ("refusion-multi-focus", "fusion"): "two focal planes",
    ("refusion-medical", "fusion"): "MRI with CT or PET",
    ("refusion", "fusion"): "true structures",
    ("average", "fusion"): "plain mean",
    ("maximum", "fusion"): "the brighter pixel",
    ("laplacian", "fusion"): "sharpest detail",
    ("guided-filter", "fusion"): "the sharper image leads",
    ("bus", "reconstruction"): "features that both images share",
    ("matcher", "features"): "places that correspond",
    ("likelihood", "features"): "whether blocks correspond",
}


def model_purpose(name: str, kind: str) -> str:
    """Say in a few words what a model is good for; empty for a model of the user."""
    return _PURPOSES.get((name, kind), "")


def model_title(name: str, kind: str) -> str:
    """Name a model by what it is good for, with its name in brackets."""
    purpose = model_purpose(name, kind)
    return f"{purpose} ({name})" if purpose else name


def register_model(
    name: str, kind: str, *, trained: bool = True, weights: str = ""
) -> Callable[[Build], Build]:
    """Register a model by name; decorates a function that builds it from a configuration.

    Parameters
    ----------
    name : str
        Name for `load_model`.
    kind : str
        One of ``KINDS``.
    trained : bool
        Whether it has weights. A model without weights gets an empty configuration.
    weights : str
        The shipped weights are ``WEIGHTS.safetensors``; by default ``NAME.safetensors``.

    Raises
    ------
    ValueError
        For an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}, need one of {', '.join(KINDS)}")

    def wrap(build: Build) -> Build:
        _MODELS[name, kind] = _Entry(kind, build, trained, weights or name)
        return build

    return wrap


def list_models(kind: str | None = None) -> list[str]:
    """Names of the registered models, the user's last.

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
        Kind of the model, when models of two kinds share a name.
    """
    entry = _find(name, kind)
    return name if entry is None else entry.weights


def describe_weights(name: str, kind: str) -> str:
    """The hash of the weights of a model, from its card; empty for a model without weights.

    Parameters
    ----------
    name : str
        As of `load_model`.
    kind : str

    Raises
    ------
    ValueError
        When there is no such model, or its card is unreadable.
    """
    entry = _find(name, kind)
    if entry is not None and not entry.trained:
        return ""
    path = weights_path(name if entry is None else entry.weights)
    if not path.exists():
        raise ValueError(f"model {name!r}: there are no weights {path}")
    return str(card(path).get("sha256", ""))


def _find(name: str, kind: str | None) -> _Entry | None:
    """The model with this name, or these weights, and this kind; else one of another kind."""
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
        Required kind of the model.
    device : str or torch.device
        Device of the model; ``"auto"`` chooses.

    Returns
    -------
    torch.nn.Module
        In evaluation mode.

    Raises
    ------
    ValueError
        For an unknown name, and for weights that are missing, damaged or of another kind.
    """
    from napari_busref.models.weights import without_storage

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
    if content["architecture"] not in _ARCHITECTURES:
        raise ValueError(
            f"model {name!r}: its card names {content['architecture']!r}; known architectures are "
            + ", ".join(_ARCHITECTURES)
        )
    try:
        check_sizes(content["config"])
        with without_storage():
            model = build_architecture(content["architecture"], content["config"])
    except Exception as error:  # a class raises anything for a configuration that is not its own
        raise ValueError(
            f"model {name!r}: its card does not configure {content['architecture']}: {error}"
        ) from error
    try:
        model.load_state_dict(read_weights(weights, content), assign=True)
    except RuntimeError as error:
        raise ValueError(
            f"model {name!r}: the weights do not fit the architecture: {error}"
        ) from error
    return model.to(target).eval()


def build_architecture(architecture: str, config: dict[str, Any]) -> nn.Module:
    """Build a network by the name and the configuration on a card; its weights are random."""
    return _ARCHITECTURES[architecture](config)


def is_auto(model: Any) -> bool:
    """Whether a model searches and refines: ``auto``, or a user's set of its networks.

    Loads neither torch nor weights.
    """
    if not isinstance(model, str | os.PathLike):
        return type(model).__name__ == "Auto"
    name = os.fspath(model)
    if name == "auto" or _find(name, "registration") is not None:
        return name == "auto"
    try:
        return bool(card(name)["architecture"] == "Auto")
    except ValueError:
        return False


def shared_model(
    name_or_path: str | Path, *, kind: str, device: str | torch.device = "cpu"
) -> nn.Module:
    """As `load_model`, but a shipped network is loaded once for the CPU. Do not change it.

    Its construction takes as long as a tenth of the registration of a pair.
    """
    entry = _find(str(name_or_path), kind)
    if entry in _SHIPPED and resolve_device(device).type == "cpu":
        return _loaded_once(str(name_or_path), kind, entry)
    return load_model(name_or_path, kind=kind, device=device)


@cache
def _loaded_once(name: str, kind: str, entry: _Entry) -> nn.Module:
    return load_model(name, kind=kind)


def _check_kind(name: str, found: str, required: str | None) -> None:
    if required is not None and found != required:
        raise ValueError(
            f"model {name!r} is for {found}; one for {required} is needed: "
            + ", ".join(list_models(required))
        )
