"""SuperFusion's semantic constraint: what is fused must still be told apart by a segmentation."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from kornia.color import rgb_to_ycbcr, ycbcr_to_rgb
from torch import Tensor, nn
from torchmetrics.classification import MulticlassJaccardIndex


def fused_colours(fused: Tensor, visible: Tensor) -> Tensor:
    """The visible image (B, 3, H, W) with ``fused`` (B, 1, H, W) as its Y, Cb and Cr kept."""
    chroma = rgb_to_ycbcr(visible)[:, 1:]
    return ycbcr_to_rgb(torch.cat([fused, chroma], 1)).clamp(0, 1)


def lovasz_softmax(probabilities: Tensor, labels: Tensor, ignore: int = -1) -> Tensor:
    """Lovász-softmax: a convex surrogate of 1 - mean IoU (Berman et al., CVPR 2018, eq. 9).

    Parameters
    ----------
    probabilities : Tensor
        (B, K, H, W), softmax over the K classes.
    labels : Tensor
        (B, H, W), whole numbers from 0 to K - 1, or ``ignore``.
    ignore : int
        Label of pixels that do not count.

    Returns
    -------
    Tensor
        Scalar: mean over the classes that occur, of the whole batch; 0 when nothing is labelled.
    """
    kept = labels.flatten() != ignore
    flat = probabilities.movedim(1, 3).flatten(0, 2)[kept]
    known = labels.flatten()[kept]
    losses = []
    for label in known.unique().tolist():
        of_class = (known == label).to(flat.dtype)
        errors, order = (of_class - flat[:, label]).abs().sort(descending=True)
        truth = of_class[order]
        missing = truth.sum() - truth.cumsum(0)
        jaccard = 1 - missing / (truth.sum() + (1 - truth).cumsum(0))
        steps = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
        losses.append((errors * steps).sum())
    return torch.stack(losses).mean() if losses else probabilities.sum() * 0


class SemanticConstraint(nn.Module):
    """Lovász-softmax of a frozen segmentation network on the fused colour image.

    Parameters
    ----------
    segmenter : torch.nn.Module
        (B, 3, H, W) in [0, 1] -> logits (B, K, H, W), as a tensor or, as torchvision's do, in a
        dictionary under ``"out"``. Its parameters are frozen.
    ignore : int
        Label that does not count.
    """

    def __init__(self, segmenter: nn.Module, ignore: int = -1) -> None:
        super().__init__()
        self.segmenter = segmenter.requires_grad_(False).eval()
        self.ignore = ignore

    def train(self, mode: bool = True) -> SemanticConstraint:
        """Leave the segmentation network in evaluation mode: its statistics are frozen too."""
        super().train(mode)
        self.segmenter.eval()
        return self

    def logits(self, fused: Tensor, visible: Tensor) -> Tensor:
        """What the segmentation network says of the fused colours, (B, K, H, W)."""
        answer = self.segmenter(fused_colours(fused, visible))
        result: Tensor = answer["out"] if isinstance(answer, dict) else answer
        return result

    def forward(self, fused: Tensor, visible: Tensor, labels: Tensor) -> Tensor:
        """Loss of ``fused`` (B, 1, H, W) with the colours of ``visible`` (B, 3, H, W)."""
        return lovasz_softmax(self.logits(fused, visible).softmax(1), labels, self.ignore)


@torch.no_grad()
def mean_iou(
    constraint: SemanticConstraint,
    fusion: nn.Module,
    samples: Iterable[tuple[Tensor, Tensor, Tensor]],
    classes: int,
) -> float:
    """Mean IoU of the segmentation of fused images, over the classes that occur.

    Parameters
    ----------
    constraint : SemanticConstraint
        Holds the segmentation network.
    fusion : torch.nn.Module
        Visible and infrared (B, 1, H, W) -> fused (B, 1, H, W).
    samples : iterable of (visible, infrared, labels)
        (B, 3, H, W), (B, 1, H, W) and (B, H, W).
    classes : int
        K.
    """
    ignored = constraint.ignore
    score = MulticlassJaccardIndex(classes, average="none", ignore_index=ignored)
    seen: set[int] = set()
    for visible, infrared, labels in samples:
        fused = fusion(rgb_to_ycbcr(visible)[:, :1], infrared)
        score.update(constraint.logits(fused, visible).argmax(1).cpu(), labels.cpu())
        seen |= set(labels.unique().tolist()) - {ignored}
    if not seen:
        raise ValueError("samples hold no labelled pixel")
    return float(score.compute()[sorted(seen)].mean())
