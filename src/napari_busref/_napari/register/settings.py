"""The settings of a run: what the panel offers and what napari's Preferences remember.

Needs neither Qt nor a viewer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from napari_busref._napari.layers.preferences import stored_group
from napari_busref._napari.layers.trades import current_trade
from napari_busref.fusion.styles import PALETTES
from napari_busref.fusion.tasks import model_for
from napari_busref.images.dtypes import AUTOMATIC, parse_fill
from napari_busref.models import list_models
from napari_busref.models.registry import is_auto, model_title
from napari_busref.registration.quality import UNRELATED_CONFIDENCE, Quality
from napari_busref.runtime.options import OPTIONS

__all__ = ["PANEL_OPTIONS", "PanelOption", "Preferences", "Settings"]

_GROUP = "registration"  # of the manifest's configurations
_FIELD_ROLES = {"arrows": "displacement", "grid": "grid", "lengths": "magnitude", "none": None}


def _default(name: str) -> Any:
    default = OPTIONS[name].default
    return AUTOMATIC if default is None else default


@dataclass(frozen=True)
class Settings:
    """All settings of a run, except its layers; the defaults suit most pairs.

    Parameters
    ----------
    model, search, mirrored, refine, transform, fill_value, fusion_model, task, infrared, detail, \
style, palette, scale_bar, device
        As of `napari_busref.register_and_fuse`, with ``"automatic"`` for None.
    warped, mask, fused : bool
        Which layers to add. Without ``fused`` nothing is fused.
    weights : bool
        Add the weights of the fusion model's learned loss, if it has one.
    doubt : bool
        Add where an error is likely.
    displacement : str
        How to draw it: ``"arrows"``, a deformed ``"grid"``, ``"lengths"``, or ``"none"``.
    planes : str
        Of stacks: ``"plane"`` (the shown one), ``"one"`` transform for all, one for ``"each"``.
    results : str
        ``"update"`` the layers of an earlier run on the same pair, or ``"add"`` new ones.
    on_cancel : str
        Keep ``"nothing"``, or the ``"best"`` estimate so far.
    """

    model: str = _default("model")
    search: str = _default("search")
    mirrored: bool = False
    refine: str = _default("refine")
    transform: str = _default("transform")
    fill_value: str | float = _default("fill_value")
    fusion_model: str = _default("fusion_model")
    task: str = _default("task")
    infrared: float = _default("infrared")
    detail: float = _default("detail")
    style: str = _default("style")
    palette: str = _default("palette")
    scale_bar: bool = _default("scale_bar")
    device: str = _default("device")
    warped: bool = True
    mask: bool = True
    fused: bool = True
    weights: bool = False
    doubt: bool = False
    displacement: str = "arrows"
    planes: str = "plane"
    results: str = "update"
    on_cancel: str = "nothing"

    @property
    def roles(self) -> frozenset[str]:
        """Roles of the layers to add."""
        roles = {name for name in ("warped", "mask", "fused", "doubt") if getattr(self, name)}
        if self.weighs:
            roles.add("weights")
        return frozenset(roles if self.field_role is None else roles | {self.field_role})

    @property
    def field_role(self) -> str | None:
        """Role of the layer that draws the displacement, if there is one."""
        return _FIELD_ROLES[self.displacement]

    @property
    def refines(self) -> bool:
        """Whether there is a refinement."""
        return self.refine != "none" and (self.refine != AUTOMATIC or is_auto(self.model))

    def searched_wide(self, quality: Quality) -> bool:
        """Whether a run with this result has tried a wide search."""
        automatic = self.search == "auto" or (self.search == AUTOMATIC and is_auto(self.model))
        evidence = quality.evidence
        found_wide = evidence is not None and evidence.chosen.startswith("wide ")
        unconfirmed = evidence is None or evidence.block_confidence < UNRELATED_CONFIDENCE
        return self.search == "wide" or (automatic and (found_wide or unconfirmed))

    @property
    def weighs(self) -> bool:
        """Whether the run adds the weights of a learned loss."""
        return self.weights and self._natural and self._learned_loss

    @property
    def _natural(self) -> bool:
        """Whether a model makes the picture."""
        return self.fused and self.style == "natural"

    @property
    def _learned_loss(self) -> bool:
        fusion_model = _none_if_automatic(self.fusion_model)
        return str(model_for(self.task, fusion_model)).startswith("refusion")

    @property
    def unused(self) -> frozenset[str]:
        """Names of the settings without effect, given the others."""
        idle = {
            "mirrored": self.search in ("none", "near"),
            "transform": not self.refines,
            "on_cancel": not (self.refines or self.fused) and self.planes == "plane",
            "weights": not (self._natural and self._learned_loss),
            **dict.fromkeys(("detail", "style"), not self.fused),
            **dict.fromkeys(("fusion_model", "task", "infrared"), not self._natural),
            **dict.fromkeys(("palette", "scale_bar"), not self.fused or self._natural),
        }
        return frozenset(name for name, unused in idle.items() if unused)

    def registration(self) -> dict[str, Any]:
        """Keyword arguments of `napari_busref.register`."""
        return {
            "model": self.model,
            "search": _none_if_automatic(self.search),
            "mirrored": self.mirrored,
            "refine": _none_if_automatic(self.refine),
            "transform": self.transform,
            "fill_value": parse_fill(self.fill_value),
            "device": self.device,
            "on_cancel": "best" if self.on_cancel == "best" else "raise",
        }

    def fusion(self) -> dict[str, Any]:
        """Keyword arguments of `napari_busref.fuse`."""
        options: dict[str, Any] = {
            "model": _none_if_automatic(self.fusion_model),
            "task": self.task,
            "infrared": self.infrared,
            "detail": self.detail,
        }
        if self.style != "natural":
            look = {"style": self.style, "palette": self.palette, "scale_bar": self.scale_bar}
            options |= look
        return options | ({"loss_weights": True} if self.weighs else {})


def _none_if_automatic(value: str) -> str | None:
    return None if value == AUTOMATIC else value


Choices = Callable[[], list[tuple[str, Any]]]


@dataclass(frozen=True)
class PanelOption:
    """How the panel offers one of the `Settings`.

    Parameters
    ----------
    name : str
        Of the setting.
    label, tooltip : str
        Texts for the user.
    choices : callable, optional
        Returns the choices as (text, value). None: a check box, a slider or a line.
    ends : (str, str), optional
        Meanings of 0 and 1, of a slider in [0, 1].
    number : bool
        A line that holds a number, or ``"automatic"``.
    """

    name: str
    label: str
    tooltip: str
    choices: Choices | None = None
    ends: tuple[str, str] | None = None
    number: bool = False


def _shared(
    name: str,
    label: str,
    choices: Choices | None = None,
    ends: tuple[str, str] | None = None,
    number: bool = False,
) -> PanelOption:
    """An option of the table that the command line and the signatures share."""
    option = OPTIONS[name]
    words = {"fixed image": "{fixed_image}", "moving image": "{moving_image}"}
    if name in ("infrared", "detail", "style", "palette"):
        words |= {"infrared": "{moving}", "visible": "{fixed}"}
    tooltip = "\n".join(option.lines)
    for word, ours in words.items():
        tooltip = tooltip.replace(word, ours)
    values = ((AUTOMATIC,) if option.default is None else ()) + option.values
    if choices is None and ends is None and not number:
        choices = _fixed_list(*zip(values, values, strict=True))
    return PanelOption(name, label, tooltip, choices, ends, number)


def _models(kind: str, *before: str) -> Choices:
    def named() -> list[tuple[str, str]]:
        first = [(f"best for the task ({name})", name) for name in before]
        return first + [(model_title(name, kind), name) for name in list_models(kind)]

    return named


def _tasks() -> list[tuple[str, str]]:
    """All fusion tasks, by their names in the trade; the form hides those of other trades."""
    names = current_trade().tasks
    return [(names.get(task, task), task) for task in OPTIONS["task"].values]


def _fixed_list(*choices: tuple[str, Any]) -> Choices:
    return lambda: list(choices)


#: All settings, in the order of the panel.
PANEL_OPTIONS = (
    _shared("model", "Registration", _models("registration")),
    _shared("search", "Search"),
    _shared("mirrored", "Mirrored", _fixed_list(("no", False), ("maybe", True))),
    _shared("refine", "Refinement"),
    _shared("transform", "Transform"),
    _shared("fill_value", "Fill value", number=True),
    _shared("fusion_model", "Fusion", _models("fusion", AUTOMATIC)),
    _shared("task", "Fusion task", _tasks),
    _shared("infrared", "Brightness", ends=("{fixed}", "{moving}")),
    _shared("detail", "Detail", ends=("smooth", "crisp")),
    _shared("style", "Style"),
    _shared("palette", "Palette", _fixed_list(*((name, name) for name in PALETTES))),
    PanelOption(
        "scale_bar",
        "Scale bar",
        "Draw the palette with the values at its ends.\n"
        "Only where the file of the {moving_image} says their unit, such as °C",
    ),
    _shared("device", "Device"),
    PanelOption("warped", "warped", "Add the {moving_image} on the grid of the {fixed_image}"),
    PanelOption("mask", "mask", "Add where the {moving_image} has content, as a Labels layer"),
    PanelOption("fused", "fused", "Fuse the two, and add the fused image"),
    PanelOption(
        "weights",
        "weights",
        "Of the fusion model refusion: add the weight of the {moving_image} in its learned loss\n"
        "at every pixel, from 0 to 1",
    ),
    PanelOption(
        "doubt",
        "doubt",
        "Add a hidden layer with the probability of an error, place by place",
    ),
    PanelOption(
        "displacement",
        "Displacement",
        "How to draw the displacement beyond the start. You can switch it after a run.\n"
        "lengths: an image with a colour bar, in pixels of the {fixed_image}",
        _fixed_list(
            ("arrows", "arrows"),
            ("deformed grid", "grid"),
            ("lengths in colour", "lengths"),
            ("not drawn", "none"),
        ),
    ),
    PanelOption(
        "planes",
        "Stack",
        "Of a stack in time, depth or channels: register the plane that is shown;\n"
        "use its transform for all planes; or find one for every plane,\n"
        "each started from its neighbour's",
        _fixed_list(
            ("the shown plane", "plane"),
            ("one transform for all planes", "one"),
            ("every plane separately", "each"),
        ),
    ),
    PanelOption(
        "results",
        "Results",
        "Of a further run on the same two layers: update the layers of the earlier run,\n"
        "or keep those and add new ones",
        _fixed_list(("update earlier", "update"), ("add new ones", "add")),
    ),
    PanelOption(
        "on_cancel",
        "On cancel",
        "What Cancel keeps: nothing, or the best estimate so far and the finished planes of a\n"
        "stack, without fusion if that was not finished",
        _fixed_list(("keep nothing", "nothing"), ("keep the best so far", "best")),
    ),
)


class Preferences:
    """The settings in napari's Preferences.

    Where the plugin's manifest is not installed, `load` returns the defaults and `save` does
    nothing.
    """

    def __init__(self) -> None:
        self._store = stored_group(_GROUP)

    def load(self) -> Settings:
        """Return the stored settings, with defaults for values that are no longer offered."""
        return _valid(Settings(**{name: getattr(self._store, name) for name in self._names()}))

    def save(self, settings: Settings) -> None:
        """Store settings; napari writes them to its configuration folder."""
        for name in self._names():
            value = getattr(settings, name)
            if getattr(self._store, name) != value:
                setattr(self._store, name, value)

    def connect(self, callback: Callable[..., None]) -> None:
        """Call back at each change in the Preferences."""
        if self._store is not None:
            self._store.events.connect(callback)

    def disconnect(self, callback: Callable[..., None]) -> None:
        """Undo `connect`."""
        if self._store is not None:
            self._store.events.disconnect(callback)

    def _names(self) -> list[str]:
        return [field.name for field in fields(Settings) if hasattr(self._store, field.name)]


def _valid(settings: Settings) -> Settings:
    defaults = asdict(Settings())
    invalid = {
        option.name: defaults[option.name]
        for option in PANEL_OPTIONS
        if not _offered(option, getattr(settings, option.name))
    }
    return replace(settings, **invalid)


def _is_fill(value: Any) -> bool:
    try:
        parse_fill(value)
    except ValueError:
        return False
    return True


def _offered(option: PanelOption, value: Any) -> bool:
    if option.choices is not None:
        return value in [choice for _, choice in option.choices()]
    if option.number:
        return _is_fill(value)
    return option.ends is None or 0 <= value <= 1
