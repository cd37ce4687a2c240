"""Semantic constraint on drawn scenes: Lovász-softmax, mean IoU, and what it teaches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_jaccard_index

from napari_busref.models.superfusion_fusion import SuperFusionNet, SuperFusionNetConfig
from napari_busref.training.semantic import (
    SemanticConstraint,
    fused_colours,
    lovasz_softmax,
    mean_iou,
)


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
    """The sum over sorted errors of what each next error costs in Jaccard distance."""
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
    before = mean_iou(constraint, fusion, [(visible, infrared, labels)], 2)
    luma = visible.mean(1, keepdim=True)
    optimiser = torch.optim.Adam(fusion.parameters(), 3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        constraint(fusion(luma, infrared), visible, labels).backward()
        optimiser.step()
    after = mean_iou(constraint, fusion, [(visible, infrared, labels)], 2)
    assert before < 0.7 and after > 0.9
    assert float(constraint.segmenter.level) == 0.75 and not constraint.segmenter.training


def test_mean_iou_leaves_out_classes_that_do_not_occur() -> None:
    visible, infrared, labels = scenes(1)
    constraint = SemanticConstraint(Brightness(), ignore=7)

    def infrared_only(visible: Tensor, infrared: Tensor) -> Tensor:
        return infrared

    found = mean_iou(constraint, infrared_only, [(visible, infrared, labels)], 2)  # type: ignore[arg-type]
    assert found == pytest.approx(1)
    with pytest.raises(ValueError, match="no labelled pixel"):
        mean_iou(constraint, infrared_only, [(visible, infrared, labels * 0 + 7)], 2)  # type: ignore[arg-type]
