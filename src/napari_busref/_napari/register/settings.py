"""What can be set for a run, when it applies, and how napari's Preferences remember it.

Needs neither Qt nor a viewer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from napari_busref.fusion.tasks import TASKS, model_for
from napari_busref.models import list_models

__all__ = ["OPTIONS", "Option", "Remembered", "Settings"]

_PLUGIN = "napari-busref"
_GROUP = "registration"  # of the manifest's configurations
_FIELD_ROLES = {"arrows": "displacement", "grid": "grid", "lengths": "magnitude", "none": None}


@dataclass(frozen=True)
class Settings:
    """Everything about a run but its layers; the defaults suit most pairs.

    Parameters
    ----------
    model : str
        A name of ``list_models("registration")``.
    search, refine, transform, device : str
        As of `napari_busref.register`; ``"automatic"`` leaves the choice to the model.
    fusion_model : str
        A name of ``list_models("fusion")``; ``"automatic"`` is the best for the task.
    task, infrared, detail
        As of `napari_busref.fuse`.
    planes : str
        Of stacks: ``"plane"`` (the shown one), ``"one"`` transform for all, one for ``"each"``.
    warped, mask, fused : bool
        Which layers to add. Without ``fused`` nothing is fused.
    weights : bool
        Add what a learned loss weighs, of models that know it.
    displacement : str
        How it is drawn: as ``"arrows"``, a deformed ``"grid"``, ``"lengths"``, or ``"none"``.
    results : str
        ``"update"`` the layers of an earlier run on the same pair, or ``"add"`` new ones.
    on_cancel : str
        Keep ``"nothing"``, or the ``"best"`` that the refinement had reached.
    """

    model: str = "auto"
    search: str = "automatic"
    refine: str = "automatic"
    transform: str = "affine"
    fusion_model: str = "automatic"
    task: str = "infrared-visible"
    infrared: float = 0.5
    detail: float = 0.5
    device: str = "auto"
    warped: bool = True
    mask: bool = True
    fused: bool = True
    weights: bool = False
    displacement: str = "arrows"
    planes: str = "plane"
    results: str = "update"
    on_cancel: str = "nothing"

    @property
    def roles(self) -> frozenset[str]:
        """The layers that are wanted."""
        roles = {name for name in ("warped", "mask", "fused") if getattr(self, name)}
        if self.weighs:
            roles.add("weights")
        return frozenset(roles if self.field_role is None else roles | {self.field_role})

    @property
    def field_role(self) -> str | None:
        """The layer that draws the displacement, if one is wanted."""
        return _FIELD_ROLES[self.displacement]

    @property
    def refines(self) -> bool:
        """Whether there is a refinement."""
        return self.refine != "none" and (self.refine != "automatic" or self.model == "auto")

    @property
    def weighs(self) -> bool:
        """Whether the weights of a learned loss are wanted and there are any."""
        return self.weights and self.fused and self._learned_loss

    @property
    def _learned_loss(self) -> bool:
        return str(model_for(self.task, self._fusion_model)).startswith("refusion")

    @property
    def _fusion_model(self) -> str | None:
        return None if self.fusion_model == "automatic" else self.fusion_model

    @property
    def unused(self) -> frozenset[str]:
        """Names of the settings that change nothing, given the others."""
        idle = {
            "transform": not self.refines,
            "on_cancel": not (self.refines or self.fused) and self.planes == "plane",
            "weights": not (self.fused and self._learned_loss),
            **dict.fromkeys(("fusion_model", "task", "infrared", "detail"), not self.fused),
        }
        return frozenset(name for name, unused in idle.items() if unused)

    def registration(self) -> dict[str, Any]:
        """Keyword arguments of `napari_busref.register`."""
        return {
            "model": self.model,
            "search": None if self.search == "automatic" else self.search,
            "refine": None if self.refine == "automatic" else self.refine,
            "transform": self.transform,
            "device": self.device,
            "on_cancel": "best" if self.on_cancel == "best" else "raise",
        }

    def fusion(self) -> dict[str, Any]:
        """Keyword arguments of `napari_busref.fuse`."""
        names = ("task", "infrared", "detail")
        asked: dict[str, Any] = {name: getattr(self, name) for name in names}
        return (
            asked | {"model": self._fusion_model} | ({"loss_weights": True} if self.weighs else {})
        )


@dataclass(frozen=True)
class Option:
    """How one of the `Settings` is offered.

    Parameters
    ----------
    name : str
        Of the setting.
    label, tooltip : str
        What the user reads.
    choices : callable, optional
        Returns what there is to choose from, as (text, value). None: on or off, or a share.
    ends : (str, str), optional
        What 0 and 1 mean, of a share in [0, 1].
    """

    name: str
    label: str
    tooltip: str
    choices: Callable[[], list[tuple[str, str]]] | None = None
    ends: tuple[str, str] | None = None


def _models(kind: str, *before: str) -> Callable[[], list[tuple[str, str]]]:
    return lambda: [(name, name) for name in (*before, *list_models(kind))]


def _fixed_list(*choices: tuple[str, str]) -> Callable[[], list[tuple[str, str]]]:
    return lambda: list(choices)


#: All settings, in the order in which they are offered.
OPTIONS = (
    Option(
        "model",
        "Registration",
        "What finds the place of the infrared image on the visible one.\n"
        "auto tries the start, the networks and a search, and refines the best",
        _models("registration"),
    ),
    Option(
        "search",
        "Search",
        "Look for the place before refining.\n"
        "automatic: near with the model auto, none with another.\n"
        "near: turned up to 15°, sized 0.8 to 1.25, shifted up to 30 % of the image.\n"
        "wide: any rotation, sizes 0.4 to 2.5, overlaps down to 30 %; takes longer.\n"
        "none: starts from where you see the layers",
        _fixed_list(
            ("automatic", "automatic"),
            ("none", "none"),
            ("near (15°, 0.8 to 1.25)", "near"),
            ("wide (any rotation)", "wide"),
        ),
    ),
    Option(
        "refine",
        "Refinement",
        "How far the result may bend.\n"
        "automatic: dense with the model auto, none with another.\n"
        "affine: shift, rotation, scale and shear.\n"
        "dense: affine, then a smooth displacement of every pixel",
        _fixed_list(
            ("automatic", "automatic"),
            ("none", "none"),
            ("affine (stays straight)", "affine"),
            ("dense (may bend)", "dense"),
        ),
    ),
    Option(
        "transform",
        "Transform",
        "What the refinement fits before it bends.\n"
        "homography: for a flat scene that two cameras see from different places",
        _fixed_list(("affine", "affine"), ("homography", "homography")),
    ),
    Option(
        "fusion_model",
        "Fusion",
        "What merges the registered infrared image into the visible one; colours are kept.\n"
        "automatic: the best for the task",
        _models("fusion", "automatic"),
    ),
    Option(
        "task",
        "Fusion task",
        "What kind of pair it is. Models that are trained for several take the weights for this "
        "one.\nmulti-focus, multi-exposure: both images may give colours",
        lambda: [(name, name) for name in TASKS],
    ),
    Option(
        "infrared",
        "Brightness",
        "Which image leads the brightness of large areas in the fused one, at the next run.\n"
        "Left: the visible image. Middle: as the model made it. Right: the infrared image",
        ends=("visible", "infrared"),
    ),
    Option(
        "detail",
        "Detail",
        "How much fine structure the fused image shows, at the next run.\n"
        "Left: none. Middle: as the model made it. Right: twice as much",
        ends=("smooth", "crisp"),
    ),
    Option(
        "device",
        "Device",
        "Where to compute. auto takes a GPU if there is one",
        _fixed_list(*((name, name) for name in ("auto", "cpu", "cuda", "mps"))),
    ),
    Option("warped", "warped", "Add the infrared image on the grid of the visible one"),
    Option("mask", "mask", "Add where the infrared image has content, as a Labels layer"),
    Option("fused", "fused", "Fuse the two, and add the fused image"),
    Option(
        "weights",
        "weights",
        "Of the fusion model refusion: add how much its learned loss weighs the infrared image\n"
        "at every pixel, from 0 to 1",
    ),
    Option(
        "displacement",
        "Displacement",
        "How to draw what moved where, from the start. May be switched after a run.\n"
        "lengths: an image with a colour bar, in pixels of the visible image",
        _fixed_list(
            ("arrows", "arrows"),
            ("deformed grid", "grid"),
            ("lengths in colour", "lengths"),
            ("not drawn", "none"),
        ),
    ),
    Option(
        "planes",
        "Stack",
        "Of a stack in time, depth or channels: register the plane that is shown;\n"
        "find the transform there and use it for all planes; or find one for every plane,\n"
        "each started from its neighbour's",
        _fixed_list(
            ("the shown plane", "plane"),
            ("one transform for all planes", "one"),
            ("every plane by itself", "each"),
        ),
    ),
    Option(
        "results",
        "Results",
        "Of a further run on the same two layers: update the layers of the earlier run,\n"
        "or keep those and add new ones",
        _fixed_list(("update earlier", "update"), ("add new ones", "add")),
    ),
    Option(
        "on_cancel",
        "On cancel",
        "What Cancel leaves: nothing, or the best that the refinement has reached, not fused\n"
        "if the fusion was cut short, and the planes of a stack that are done",
        _fixed_list(("keep nothing", "nothing"), ("keep the best so far", "best")),
    ),
)


class Remembered:
    """The settings in napari's Preferences.

    Where the plugin's manifest is not installed, there is nothing to remember them in: then
    `load` returns the defaults and `keep` does nothing.
    """

    def __init__(self) -> None:
        self._store = _store()

    def load(self) -> Settings:
        """Return what is remembered; the default for what is no longer offered."""
        return _valid(Settings(**{name: getattr(self._store, name) for name in self._names()}))

    def keep(self, settings: Settings) -> None:
        """Remember settings; napari writes them to its own folder."""
        for name in self._names():
            value = getattr(settings, name)
            if getattr(self._store, name) != value:
                setattr(self._store, name, value)

    def connect(self, callback: Callable[..., None]) -> None:
        """Call back when something is changed in the Preferences."""
        if self._store is not None:
            self._store.events.connect(callback)

    def disconnect(self, callback: Callable[..., None]) -> None:
        """Undo `connect`."""
        if self._store is not None:
            self._store.events.disconnect(callback)

    def _names(self) -> list[str]:
        return [field.name for field in fields(Settings) if hasattr(self._store, field.name)]


def _store() -> Any:
    """The evented model that napari makes of the manifest's configurations, or None."""
    try:
        from napari.settings import get_plugin_settings
    except ImportError:  # napari before 0.9
        return None
    try:
        return getattr(get_plugin_settings(_PLUGIN), _GROUP, None)
    except KeyError:  # the plugin is not installed, or switched off
        return None


def _valid(settings: Settings) -> Settings:
    defaults = asdict(Settings())
    wrong = {
        option.name: defaults[option.name]
        for option in OPTIONS
        if not _offered(option, getattr(settings, option.name))
    }
    return replace(settings, **wrong)


def _offered(option: Option, value: Any) -> bool:
    if option.choices is not None:
        return value in [choice for _, choice in option.choices()]
    return option.ends is None or 0 <= value <= 1
