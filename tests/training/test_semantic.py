"""Semantic constraint on drawn scenes: Lovász-softmax, mean IoU, and training."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import typer
from imageio.v3 import imwrite
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_jaccard_index

from napari_busref.models.fusion.superfusion import SuperFusionNet, SuperFusionNetConfig
from napari_busref.training import run
from napari_busref.training.batches.pair_store import PairStore
from napari_busref.training.losses.semantic import (
    LabelledScenes,
    SemanticConstraint,
    class_ious,
    fused_colours,
    load_segmenter,
    lovasz_softmax,
    mean_iou,
)
from napari_busref.training.recipe import DataConfig


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Brightness(nn.Module):
    """A segmentation network: class 1 where the image is bright. Gives a dictionary, as others."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.75))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        bright = 20 * (image.mean(1, keepdim=True) - self.level)
        return {"out": torch.cat([-bright, bright], 1)}


def scenes(count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Discs that only the infrared image shows, on a grey visible one, and their label map."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(56.0), indexing="ij")
    labels = torch.stack(
        [((x - 12 - 9 * i) ** 2 + (y - 24) ** 2 < 100).long() for i in range(count)]
    )
    visible = 0.3 + 0.02 * torch.rand(count, 3, 48, 56)
    return visible, labels[:, None] * 0.8 + 0.1, labels


def test_lovasz_of_hard_answers_is_one_minus_iou() -> None:
    labels = torch.randint(3, (2, 8, 9))
    answers = torch.randint(3, (2, 8, 9))
    hard = nn.functional.one_hot(answers, 3).movedim(3, 1).float()
    expected = 1 - multiclass_jaccard_index(answers, labels, 3, average="macro")
    torch.testing.assert_close(lovasz_softmax(hard, labels), expected)


def test_lovasz_is_the_extension_written_out() -> None:
    """Sum over the sorted errors, each times the Jaccard distance that it adds."""
    labels = torch.tensor([[[0, 1, 1, 0, 1]]])
    foreground = torch.tensor([[[0.4, 0.8, 0.3, 0.1, 0.6]]])
    probabilities = torch.stack([1 - foreground, foreground], 1)
    losses = []
    for label in (0, 1):
        truth = (labels.flatten() == label).tolist()
        errors = [
            abs(t - p) for t, p in zip(truth, probabilities[0, label, 0].tolist(), strict=True)
        ]
        order = sorted(range(5), key=lambda i: -errors[i])
        value, before = 0.0, 0.0
        for count in range(1, 6):
            wrong = set(order[:count])
            kept = sum(truth[i] for i in range(5) if i not in wrong)
            union = sum(truth) + sum(not truth[i] for i in wrong)
            value += errors[order[count - 1]] * (1 - kept / union - before)
            before = 1 - kept / union
        losses.append(value)
    found = lovasz_softmax(probabilities, labels)
    assert float(found) == pytest.approx(sum(losses) / 2, rel=1e-5)


def test_ignored_pixels_do_not_count() -> None:
    probabilities = torch.rand(1, 2, 4, 4).softmax(1)
    labels = torch.randint(2, (1, 4, 4))
    other = probabilities.clone()
    labels[0, 0] = 255
    other[..., 0, :] = 0.5
    first, second = (lovasz_softmax(p, labels, ignore=255) for p in (probabilities, other))
    torch.testing.assert_close(first, second)
    assert float(lovasz_softmax(probabilities, torch.full_like(labels, 255), 255)) == 0


def test_colours_keep_their_chroma() -> None:
    visible = 0.3 + 0.4 * torch.rand(1, 3, 6, 6)
    luma = (visible * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(fused_colours(luma, visible), visible, atol=2e-3, rtol=0)
    brighter = fused_colours(luma + 0.1, visible)
    torch.testing.assert_close(
        brighter - visible, torch.full_like(visible, 0.1), atol=2e-3, rtol=0
    )


def test_constraint_teaches_the_fusion_network_what_is_looked_for() -> None:
    """mIoU of a frozen segmentation network rises, and its parameters stay as they were."""
    visible, infrared, labels = scenes()
    fusion = SuperFusionNet(SuperFusionNetConfig(attention_width=4))
    constraint = SemanticConstraint(Brightness()).train()
    before = mean_iou(constraint, fusion, [(visible, infrared, labels)])
    luma = visible.mean(1, keepdim=True)
    optimiser = torch.optim.Adam(fusion.parameters(), 3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        constraint(fusion(luma, infrared), visible, labels).backward()
        optimiser.step()
    after = mean_iou(constraint, fusion, [(visible, infrared, labels)])
    assert before < 0.7 and after > 0.9
    assert float(constraint.segmenter.level) == 0.75 and not constraint.segmenter.training


def test_mean_iou_leaves_out_classes_that_do_not_occur() -> None:
    visible, infrared, labels = scenes(1)
    constraint = SemanticConstraint(Brightness(), ignore=7)

    def infrared_only(visible: Tensor, infrared: Tensor) -> Tensor:
        return infrared

    found = mean_iou(constraint, infrared_only, [(visible, infrared, labels)])  # type: ignore[arg-type]
    assert found == pytest.approx(1)
    with pytest.raises(ValueError, match="no labelled pixel"):
        mean_iou(constraint, infrared_only, [(visible, infrared, labels * 0 + 7)])  # type: ignore[arg-type]


def test_iou_of_each_class_is_counted_over_all_pixels() -> None:
    """Half of the disc is cold: missed pixels count for both classes."""
    visible, infrared, labels = scenes(2)
    infrared[:, :, :24] = 0.1  # rows 0..23 of the discs, whose middle is row 24
    constraint = SemanticConstraint(Brightness())

    def infrared_only(visible: Tensor, infrared: Tensor) -> Tensor:
        return infrared

    found = class_ious(constraint, infrared_only, [(visible, infrared, labels)])  # type: ignore[arg-type]
    answers = infrared[:, 0] > 0.5
    for label, answer in ((0, ~answers), (1, answers)):
        truth = labels == label
        assert found[label] == pytest.approx(
            float((answer & truth).sum() / (answer | truth).sum())
        )
    assert mean_iou(constraint, infrared_only, [(visible, infrared, labels)]) == pytest.approx(  # type: ignore[arg-type]
        (found[0] + found[1]) / 2
    )
    with pytest.raises(ValueError, match=r"labels: got classes \[0, 2\], need numbers below 2"):
        class_ious(constraint, infrared_only, [(visible, infrared, 2 * labels)])  # type: ignore[arg-type]


RECIPE = """
stage = "superfusion-fusion"
steps = 30
batch = 2
learning_rate = 3e-3
threads = 1
log_every = 1
validate_every = {every}
[data]
root = "{root}"
datasets = ["street"]
crop_side = 32
crop_range = [0.6, 0.9]
[augment]
polarity = 0.0
[loss]
semantic = 5.0
segmenter = "street_networks:bright"
[model]
attention_width = 4
"""
SEGMENTER = """
import torch

class Bright(torch.nn.Module):
    def forward(self, image):
        bright = 20 * (image.mean(1, keepdim=True) - 0.75)
        return torch.cat([-bright, bright], 1)

def bright():
    return Bright()

def number():
    return 3
"""


@pytest.fixture
def street(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set with label maps, and a module with a segmentation network."""
    visible, infrared, labels = scenes(4)
    for i in range(4):
        pictures = {
            "visible": visible[i].movedim(0, 2) * 255,
            "infrared": infrared[i, 0] * 255,
            "labels": labels[i],
        }
        for name, picture in pictures.items():
            (tmp_path / "street" / name).mkdir(parents=True, exist_ok=True)
            imwrite(tmp_path / "street" / name / f"{i}.png", np.uint8(picture.numpy().round()))
    split = {"train": ["0.png", "1.png", "2.png"], "val": ["3.png"]}
    (tmp_path / "street" / "split.json").write_text(json.dumps(split))
    (tmp_path / "street_networks.py").write_text(SEGMENTER)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_recipe_trains_with_a_segmentation_network_and_label_maps(street: Path) -> None:
    recipe = street / "recipe.toml"
    recipe.write_text(RECIPE.format(root=street.as_posix(), every=15))
    assert run("superfusion-fusion", recipe, output=street / "out", device="cpu") is not None
    (log,) = (street / "out" / "logs").glob("*/metrics.csv")
    with log.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    losses = [float(row["semantic"]) for row in rows if row.get("semantic")]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    (column,) = (name for name in rows[0] if name.endswith("miou"))
    assert all(0 < float(row[column]) <= 1 for row in rows if row[column])


def test_labels_are_cropped_with_their_pair(street: Path) -> None:
    config = DataConfig(datasets=("street",), root=str(street), crop_side=32)
    crops = PairStore.from_config(config).draw(6, config)
    colours, labels = LabelledScenes.from_config(config).crop(crops)
    assert colours.shape[1:] == (3, *crops.visible.shape[2:])
    # the disc is bright in the infrared image
    assert ((crops.infrared[:, 0] > 0.5) == (labels == 1)).float().mean() > 0.98
    torch.testing.assert_close(colours.mean(1), crops.visible[:, 0], atol=0.02, rtol=0)


def test_the_script_prints_the_mean_iou_of_every_method(
    street: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    # the other tests keep their threads
    monkeypatch.setattr(importlib.import_module("options"), "set_threads", lambda count: None)
    script = importlib.import_module("segmentation")
    options = {"data_root": street, "dataset": "street", "model": ["average", "maximum"]}
    script.main("street_networks:bright", **options)
    heading, _, *lines = capsys.readouterr().out.splitlines()
    assert heading == "|  | mean IoU | class 0 | class 1 |"
    cells = [line.strip("| ").split(" | ") for line in lines]
    found = {name: [float(value) for value in values] for name, *values in cells}
    assert list(found) == ["average", "maximum", "visible only", "infrared only"]
    assert found["infrared only"] == [1, 1, 1] and found["visible only"][2] == 0
    assert found["average"][2] == 0 and found["maximum"] == [1, 1, 1]  # bright enough or not
    with pytest.raises(typer.BadParameter, match=r"need 'module:function'"):
        script.main("nowhere:bright", **options)
    with pytest.raises(typer.BadParameter, match=r"needs .*split.json"):
        script.main("street_networks:bright", street, "moon")


def test_what_the_constraint_needs_is_said(street: Path) -> None:
    for name in ("street_networks", "nowhere:bright", "street_networks:dark"):
        with pytest.raises(ValueError, match=r"loss.segmenter: got .*need 'module:function'"):
            load_segmenter(name)
    with pytest.raises(ValueError, match=r"loss.segmenter: .* returned int"):
        load_segmenter("street_networks:number")
    config = DataConfig(datasets=("street",), root=str(street))
    label = street / "street" / "labels" / "1.png"
    imwrite(label, np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"loss.semantic: .*1.png has shape \(8, 8\), need"):
        LabelledScenes.from_config(config)
    label.unlink()
    with pytest.raises(ValueError, match=r"loss.semantic: needs a label map .*1.png"):
        LabelledScenes.from_config(config)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark on small drawn streets."""
    root = Path(__file__).resolve().parents[2]
    for folder in ("benchmarks", "scripts"):
        monkeypatch.syspath_prepend(root / folder)
    monkeypatch.setattr(importlib.import_module("options"), "set_threads", lambda count: None)
    found = importlib.import_module("semantic_street")
    monkeypatch.setattr(found, "SHAPE", (64, 96))
    return found


def test_the_labels_of_the_street_belong_to_its_pictures(script: ModuleType) -> None:
    kinds = importlib.import_module("street.canvas").Kind
    visible, infrared, labels = importlib.import_module("street.render").render_labelled(
        (96, 128), 0
    )
    assert visible.shape[:2] == infrared.shape == labels.shape
    assert set(np.unique(labels)) == set(kinds)
    heat = {kind: float(np.median(infrared[labels == kind])) for kind in kinds}
    assert max(heat, key=lambda kind: heat[kind]) == kinds.PERSON
    assert min(heat, key=lambda kind: heat[kind]) == kinds.SKY
    rows = np.indices(labels.shape)[0]
    assert rows[labels == kinds.SKY].mean() < rows[labels == kinds.GROUND].mean()


def test_the_constraint_is_measured_on_drawn_streets(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(script.WEIGHTS, "")  # restored afterwards
    script.main(tmp_path, train=2, val=1, steps=1, segmenter_steps=2)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[2].startswith("|  | mean IoU | sky | ground | building | plant | car | person")
    names = [line.split(" | ")[0].strip("| ") for line in lines[4:]]
    assert names[:3] == [
        f"fused, {name}" for name in ("shipped", "without the constraint", "with the constraint")
    ]
    assert names[3:5] == ["visible only", "infrared only"]
    logs = (tmp_path / "with-the-constraint" / "logs").glob("*/metrics.csv")
    assert "semantic" in next(logs).read_text().splitlines()[0]
