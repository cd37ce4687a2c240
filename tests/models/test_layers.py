"""Operations written for speed give the same as torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from napari_busref.models.layers import largest_of_3x3, unit_length, upsample


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [2, 12])
def test_upsampling_is_bilinear(channels: int, dtype: torch.dtype) -> None:
    x = torch.rand(2, channels, 7, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = upsample(x, (16, 20))
    assert found.is_contiguous()
    torch.testing.assert_close(found, F.interpolate(x, (16, 20), mode="bilinear"))
    assert upsample(x, (7, 9)) is x


@pytest.mark.parametrize("dim", [1, 2])
def test_vectors_get_unit_length_but_nothing_stays_nothing(dim: int) -> None:
    x = torch.randn(2, 5, 6, 4, generator=torch.Generator().manual_seed(0))
    x[0, :, 0] = 0
    torch.testing.assert_close(unit_length(x, dim), F.normalize(x, dim=dim, eps=1e-4))


def test_largest_of_three_by_three_is_pooling() -> None:
    x = torch.rand(1, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(largest_of_3x3(x), F.max_pool2d(x, 3, 1))
