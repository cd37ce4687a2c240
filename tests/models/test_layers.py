"""Operations written for speed give the same as torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from napari_busref.models.layers import DilatedBlock, largest_of_3x3, unit_length, upsample


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


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_dilated_block_gives_the_same_in_training(
    groups: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    block = DilatedBlock(8, dilation=2, groups=groups)
    torch.nn.init.normal_(block[1].weight)
    torch.nn.init.normal_(block[1].bias)
    x = 5 + torch.randn(2, 8, 12, 15)
    x[1, 3] = 2.0
    with torch.inference_mode():
        found = block(x.contiguous(memory_format=layout))
    torch.testing.assert_close(found, block(x), atol=1e-4, rtol=1e-4)
    assert block(x).requires_grad
