"""The part of the panel "Fine-tune" that chooses models, duration and further settings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from magicgui.widgets import ComboBox
from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_busref._napari.widgets.forms import (
    Folded,
    decimal,
    folded,
    form,
    line,
    narrow,
    whole,
    with_browser,
)
from napari_busref.models.registry import model_title
from napari_busref.training.finetuning.plan import trainings_folder
from napari_busref.training.finetuning.recipes import base_models

__all__ = ["TrainingSettings"]


class TrainingSettings(QWidget):
    """The models to fine-tune, the duration and the name of the result.

    Attributes
    ----------
    registration, fusion : magicgui.widgets.ComboBox
        The model to continue from, or None; read and set ``value``.
    steps : QSpinBox
    name, folder : QLineEdit
        Of the result, and of the trainings (empty: in the user's data folder).
    rate, minutes : QDoubleSpinBox
        Learning rate (0: automatic) and time limit (0: none).
    batch, held_out, every : QSpinBox
        Crops a step and held-out pairs (0: automatic); steps between measurements.
    preview : QCheckBox
    device : magicgui.widgets.ComboBox
    """

    def __init__(self) -> None:
        super().__init__()
        self.registration, self.fusion = (
            ComboBox(
                name=kind,
                choices=partial(_base_choices, kind),
                nullable=True,
                tooltip=f"The {kind} model to continue from; ----- trains none",
            )
            for kind in ("registration", "fusion")
        )
        self.registration.value = next(iter(base_models("registration")), None)
        self.steps = whole(1, 100000, 300, "Training steps of each model")
        self.name = line("name", "Under this name, the other panels offer the result")
        self.name.setText("my model")
        self._advanced = self._make_advanced()
        for chooser in (self.registration, self.fusion, self.device):
            narrow(chooser)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(
            form(
                ("Re&gistration", self.registration.native),
                ("Fusi&on", self.fusion.native),
                ("Steps", self.steps),
                ("&Name", self.name),
            )
        )
        layout.addWidget(self._advanced)

    def _make_advanced(self) -> Folded:
        self.rate = decimal(
            0,
            0.1,
            0.00005,
            0,
            "Size of a step. automatic: a twentieth of the rate that trained the model.\n"
            "Reduce it when the score on the held-out pairs gets worse",
            decimals=6,
            automatic="automatic",
        )
        self.minutes = decimal(
            0,
            100000,
            1,
            0,
            "After this many minutes, training ends and the model is saved",
            automatic="no limit",
        )
        self.batch = whole(0, 256, 0, "Crops of pairs in each training step", "automatic")
        self.held_out = whole(
            0,
            10000,
            0,
            "The last pairs are held out of training, to measure the model on them.\n"
            "automatic: a fifth, at most 4; of a single pair its last quarter",
            "automatic",
        )
        self.every = whole(1, 100000, 50, "Steps between two measurements on the held-out pairs")
        self.preview = QCheckBox("preview in the viewer")
        self.preview.setChecked(True)
        self.preview.setToolTip(
            "Show the results for the first held-out pair, before training and now"
        )
        self.device = ComboBox(
            name="device",
            choices=["auto", "cpu", "cuda", "mps"],
            tooltip="Where to train. auto uses a GPU if there is one",
        )
        self.folder = line(
            "folder",
            "Folder of checkpoints and logs, in a subfolder with the name above.\n"
            f"Empty: {trainings_folder()}",
        )
        self.folder.setPlaceholderText("automatic")
        return folded(
            "Advan&ced settings",
            "Learning rate, limits, held-out pairs, device, folder",
            form(
                ("Learning rate", self.rate),
                ("Minutes", self.minutes),
                ("Crops a step", self.batch),
                ("Held-out pairs", self.held_out),
                ("Measure every", self.every),
                ("Device", self.device.native),
                ("Folder", with_browser(self.folder)),
                ("", self.preview),
            ),
        )

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `napari_busref.training.finetune`.

        Raises
        ------
        ValueError
            Without a model or a name.
        """
        models = [one.value for one in (self.registration, self.fusion) if one.value]
        if not models:
            raise ValueError("choose a model to continue from, for registration, fusion or both")
        name = self.name.text().strip()
        if not name:
            raise ValueError("enter a name for the result")
        return {
            "models": models,
            "name": name,
            "output": Path(self.folder.text().strip() or trainings_folder()) / name,
            "steps": self.steps.value(),
            "learning_rate": self.rate.value() or None,
            "batch": self.batch.value() or None,
            "held_out": self.held_out.value() or None,
            "preview_every": self.every.value(),
            **self.limits(),
        }

    def limits(self) -> dict[str, Any]:
        """The settings that also apply to a resumed training."""
        return {"max_minutes": self.minutes.value() or None, "device": self.device.value}

    def reset_choices(self) -> None:
        """Offer the existing models."""
        for chooser in (self.registration, self.fusion):
            chooser.reset_choices()

    def tab_order(self) -> list[QWidget]:
        """The controls from first to last."""
        return [
            self.registration.native,
            self.fusion.native,
            self.steps,
            self.name,
            self._advanced.toggleButton(),
            self.rate,
            self.minutes,
            self.batch,
            self.held_out,
            self.every,
            self.device.native,
            self.folder,
            self.preview,
        ]


def _base_choices(kind: str, _: Any = None) -> list[tuple[str, str]]:
    return [(model_title(name, kind), name) for name in base_models(kind)]
