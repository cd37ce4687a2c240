"""SuperFusion's semantic constraint: a segmentation network on the fused image."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from imageio.v3 import imread
from kornia.color import rgb_to_ycbcr, ycbcr_to_rgb
from torch import Tensor, nn
from torchmetrics.classification import MulticlassJaccardIndex

from napari_busref.data.datasets import default_root, load_pairs
from napari_busref.geometry import base_grid, transform_points, warp
from napari_busref.training.batches.pair_store import Crops
from napari_busref.training.recipe import DataConfig


def fused_colours(fused: Tensor, visible: Tensor) -> Tensor:
    """The visible image (B, 3, H, W) with its Y replaced by ``fused`` (B, 1, H, W)."""
    chroma = rgb_to_ycbcr(visible)[:, 1:]
    return ycbcr_to_rgb(torch.cat([fused, chroma], 1)).clamp(0, 1)


def lovasz_softmax(probabilities: Tensor, labels: Tensor, ignore: int = -1) -> Tensor:
    """Lovász-softmax: a convex surrogate of 1 - mean IoU (Berman et al., CVPR 2018, eq. 9).

    Parameters
    ----------
    probabilities : Tensor
        (B, K, H, W), softmax over the K classes.
    labels : Tensor
        (B, H, W), integers from 0 to K - 1, or ``ignore``.
    ignore : int
        Label to leave out.

    Returns
    -------
    Tensor
        Scalar: mean over the classes in the batch; 0 when nothing is labelled.
    """
    kept = labels.flatten() != ignore
    flat = probabilities.movedim(1, 3).flatten(0, 2)[kept]
    classes = labels.flatten()[kept]
    losses = []
    for label in classes.unique().tolist():
        of_class = (classes == label).to(flat.dtype)
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
        (B, 3, H, W) in [0, 1] -> logits (B, K, H, W): a tensor, or a dictionary with the key
        ``"out"`` as in torchvision. The constraint freezes its parameters.
    ignore : int
        Label to leave out.
    """

    def __init__(self, segmenter: nn.Module, ignore: int = -1) -> None:
        super().__init__()
        self.segmenter = segmenter.requires_grad_(False).eval()
        self.ignore = ignore

    def train(self, mode: bool = True) -> SemanticConstraint:
        """Keep the segmentation network in evaluation mode, with frozen statistics."""
        super().train(mode)
        self.segmenter.eval()
        return self

    def logits(self, fused: Tensor, visible: Tensor) -> Tensor:
        """Logits (B, K, H, W) of the segmentation network on the fused colours."""
        output = self.segmenter(fused_colours(fused, visible))
        logits: Tensor = output["out"] if isinstance(output, dict) else output
        return logits

    def forward(self, fused: Tensor, visible: Tensor, labels: Tensor) -> Tensor:
        """Loss of ``fused`` (B, 1, H, W) with the colours of ``visible`` (B, 3, H, W)."""
        return lovasz_softmax(self.logits(fused, visible).softmax(1), labels, self.ignore)


def load_segmenter(name: str) -> nn.Module:
    """Make the segmentation network that a recipe names.

    Parameters
    ----------
    name : str
        ``"module:function"``; the function takes no argument and returns the network with its
        weights.

    Raises
    ------
    ValueError
        If there is no such function, or it returns something else.
    """
    need = "need 'module:function', a function in a module that can be imported"
    try:
        make = pkgutil.resolve_name(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise ValueError(f"loss.segmenter: got {name!r}, {need}: {error}") from error
    if not callable(make):
        raise ValueError(f"loss.segmenter: got {name!r}, {need}")
    network = make()
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"loss.segmenter: {name} returned {type(network).__name__}, need a torch.nn.Module"
        )
    return network


class LabelledScenes:
    """Colours and label maps of the pairs of a `PairStore`, in the same order.

    Parameters
    ----------
    scenes : list of (visible, infrared, labels)
        (3, H, W) and (1, H, W) in [0, 1], and integers (H, W).
    """

    def __init__(self, scenes: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        self.scenes = scenes

    @classmethod
    def from_config(cls, config: DataConfig, split: str = "train") -> LabelledScenes:
        """Read ``DATA/NAME/labels/PAIR.png`` for every pair of a recipe's data sets.

        Raises
        ------
        ValueError
            If one is missing or differs in size from its pair.
        """
        root = Path(config.root) if config.root else default_root() or Path()
        scenes = []
        for dataset in config.datasets:
            for name, infrared, visible in load_pairs(dataset, root, split):
                file = root / dataset / "labels" / f"{name}.png"
                if not file.is_file():
                    raise ValueError(f"loss.semantic: needs a label map {file}, which is missing")
                labels = torch.from_numpy(imread(file)).long()
                if labels.shape != infrared.shape:
                    raise ValueError(
                        f"loss.semantic: {file} has shape {tuple(labels.shape)}, need "
                        f"{infrared.shape} as its pair"
                    )
                colours = torch.from_numpy(visible).movedim(2, 0) / 255
                scenes.append((colours, torch.from_numpy(infrared)[None] / 255, labels))
        return cls(scenes)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Visible (1, 3, H, W), infrared (1, 1, H, W) and labels (1, H, W) of every scene."""
        return ((v[None], r[None], labels[None]) for v, r, labels in self.scenes)

    def crop(self, crops: Crops) -> tuple[Tensor, Tensor]:
        """Colours (B, 3, h, w) and labels (B, h, w) of crops drawn from the store."""
        like = crops.visible
        grids = transform_points(crops.theta, base_grid(like.shape[-2], like.shape[-1], like))
        colours, labels = [], []
        for number, grid in zip(crops.index.tolist(), grids.split(1), strict=True):
            visible, _, label = self.scenes[number]
            colours.append(warp(visible[None].to(like), grid, padding="border"))
            nearest = warp(label[None, None].to(like), grid, padding="border", mode="nearest")
            labels.append(nearest[:, 0].long())
        return torch.cat(colours), torch.cat(labels)


@torch.no_grad()
def class_ious(
    constraint: SemanticConstraint,
    fusion: nn.Module,
    samples: Iterable[tuple[Tensor, Tensor, Tensor]],
) -> dict[int, float]:
    """IoU of the segmentation of fused images, for every class in the labels.

    Parameters
    ----------
    constraint : SemanticConstraint
        Holds the segmentation network.
    fusion : torch.nn.Module
        Visible and infrared (B, 1, H, W) -> fused (B, 1, H, W).
    samples : iterable of (visible, infrared, labels)
        (B, 3, H, W), (B, 1, H, W) and (B, H, W).

    Returns
    -------
    dict of int to float
        Label -> intersection over union of all pixels, in [0, 1].

    Raises
    ------
    ValueError
        If nothing is labelled, or the segmentation network lacks a labelled class.
    """
    ignored = constraint.ignore
    score: MulticlassJaccardIndex | None = None
    seen: set[int] = set()
    for visible, infrared, labels in samples:
        fused = fusion(rgb_to_ycbcr(visible)[:, :1], infrared)
        logits = constraint.logits(fused, visible)
        classes = logits.shape[1]
        if score is None:
            score = MulticlassJaccardIndex(classes, average="none", ignore_index=ignored)
        here = set(labels.unique().tolist()) - {ignored}
        if not here <= set(range(classes)):
            raise ValueError(
                f"labels: got classes {sorted(here)}, need numbers below {classes}, the number "
                f"of classes of the segmentation network, or {ignored} for pixels to leave out"
            )
        score.update(logits.argmax(1).cpu(), labels.cpu())
        seen |= here
    if score is None or not seen:
        raise ValueError("samples hold no labelled pixel")
    found = score.compute().tolist()
    return {label: found[label] for label in sorted(seen)}


def mean_iou(
    constraint: SemanticConstraint,
    fusion: nn.Module,
    samples: Iterable[tuple[Tensor, Tensor, Tensor]],
) -> float:
    """Mean of `class_ious` over the classes, with the same arguments."""
    found = class_ious(constraint, fusion, samples)
    return sum(found.values()) / len(found)
