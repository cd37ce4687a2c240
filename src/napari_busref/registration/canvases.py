"""The content of an image on a canvas, turned and scaled, for the wide search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor

from napari_busref.models.features.matcher import Matcher
from napari_busref.registration.pyramid import MaskedImage, downsample

_MAX_CANVAS = 1.15  # of the longer side of the turned image's content
_MIN_CONTENT = 0.4  # of the content's bounding box, where it sets the working size
_MAX_ELONGATION = 2.5  # longer side of a content in working sides, reached at 1 : 6.25
_LOCAL_SIGMA = 8.0  # working pixels, of the local mean and contrast
_LOCAL_CONTRAST = 0.2  # grey levels of a local standard deviation
_LOCAL_NOISE = 0.03  # local standard deviation that counts as half


@dataclass(frozen=True)
class Frame:
    """An image and its working pixels, (x, y) from the image's centre.

    Attributes
    ----------
    image : MaskedImage
    base : Tensor
        (2, 2), working pixels of a side of 1 -> pixels of the image.
    outline : Tensor
        (N, 2), the ends of the content's rows, in pixels of the image.
    """

    image: MaskedImage
    base: Tensor
    outline: Tensor

    @classmethod
    def of(cls, image: MaskedImage, shear: Tensor) -> Frame:
        """The frame of an image's content; ``shear`` (2, 2) has a determinant of 1 or -1."""
        valid = image.valid[0, 0] > 0
        outline = _outline(valid)
        box = outline.amax(0) - outline.amin(0)
        area = max(float(valid.sum()), _MIN_CONTENT * float(box.prod()))
        unit = max(area**0.5, float(box.max()) / _MAX_ELONGATION)
        return cls(image, shear * unit, outline)

    def linear(self, side: float) -> Tensor:
        """Working pixels -> pixels of the image, (2, 2)."""
        return self.base / side

    def turned(self, side: float, degrees: Tensor) -> Tensor:
        """The same for content turned by angles (N,): (N, 2, 2)."""
        angle = degrees.to(self.base).deg2rad()
        cos, sin = angle.cos(), angle.sin()
        return self.linear(side) @ torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)

    def canvas(self, linear: Tensor) -> Canvas:
        """The content of an image; ``linear`` maps the canvas's pixels to the image's."""
        outline = self.outline @ torch.linalg.inv(linear).T
        low, high = outline.amin(0), outline.amax(0)
        side = (self.outline.amax(0) - self.outline.amin(0)).amax()
        longest = float(side / torch.linalg.det(linear).abs().sqrt()) * _MAX_CANVAS
        width, height = (
            max(math.ceil(min(float(n), longest) / 8 - 1e-3) * 8, Matcher.smallest)
            for n in high - low
        )
        middle = linear.new_tensor([height, width]) / 2 - ((low + high) / 2).flip(0)
        sides = sides_of(self.image.shape, linear)
        grid = centred_grid((height, width), middle) @ linear.T * 2 / sides
        content = downsample(self.image, float(linear.norm(dim=0).min())).sample(grid[None])
        return Canvas(with_local_contrast(content), middle)


@dataclass(frozen=True)
class Canvas:
    """An image's content on a canvas.

    Attributes
    ----------
    image : MaskedImage
    middle : Tensor
        (2,), (row, col) of the image's centre, in pixels from the upper left corner.
    """

    image: MaskedImage
    middle: Tensor

    def turned(self) -> Canvas:
        """The canvas turned by a right angle, as a later view is."""
        width = self.image.shape[1]
        parts = (self.image.image, self.image.valid)
        turned = MaskedImage(*(torch.rot90(x, 1, (2, 3)).contiguous() for x in parts))
        row, col = self.middle
        return Canvas(turned, torch.stack([width - col, row]))


def with_local_contrast(image: MaskedImage) -> MaskedImage:
    """The same local mean and contrast everywhere.

    Dark infrared images then have as much to say as bright ones, and a drawn map as a photograph.
    """
    longest = 2 * (min(image.shape) // 2) - 1
    size = min(2 * round(2.5 * _LOCAL_SIGMA) + 1, longest)

    def blurred(x: Tensor) -> Tensor:
        return gaussian_blur2d(x, (size, size), (_LOCAL_SIGMA, _LOCAL_SIGMA), "replicate")

    share = blurred(image.valid).clamp_min(1e-3)
    change = (image.image - blurred(image.image * image.valid) / share) * image.valid
    contrast = (blurred(change.square()) / share).sqrt() + _LOCAL_NOISE
    return MaskedImage((0.5 + _LOCAL_CONTRAST * change / contrast).clamp(0, 1), image.valid)


def _outline(valid: Tensor) -> Tensor:
    """Ends of the valid rows as positions (N, 2), (x, y) from the centre of a mask (H, W)."""
    height, width = valid.shape
    columns = torch.arange(width, device=valid.device)
    rows = valid.any(1).nonzero()[:, 0]
    first = torch.where(valid, columns, width).amin(1)[rows]
    last = torch.where(valid, columns, -1).amax(1)[rows] + 1
    ends = [torch.stack([x, y], 1) for x in (first, last) for y in (rows, rows + 1)]
    return torch.cat(ends).float() - torch.tensor([width, height], device=valid.device).float() / 2


def sides_of(shape: tuple[int, int], like: Tensor) -> Tensor:
    """Width and height."""
    return like.new_tensor([shape[1], shape[0]])


def centred_grid(size: tuple[int, int], middle: Tensor) -> Tensor:
    """Positions (h, w, 2), (x, y) of the cells of a map, from a (row, col)."""
    rows, cols = (torch.arange(n).to(middle) + 0.5 - m for n, m in zip(size, middle, strict=True))
    return torch.stack(torch.meshgrid(rows, cols, indexing="ij")[::-1], -1)
