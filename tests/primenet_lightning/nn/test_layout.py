import pytest
import torch
from torch.nn import functional

from primenet_lightning.nn.layout import channels_last


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_changes_the_layout_and_nothing_else(channels):
    x = torch.randn(2, channels, 4, 5)
    y = channels_last(x)
    assert torch.equal(x, y)
    assert y.stride() == (20 * channels, 1, 5 * channels, channels)
    assert channels_last(y).data_ptr() == y.data_ptr()  # once is enough


def test_what_one_channel_becomes_is_laid_out_so_too():
    """Torch takes one channel for channels first, since its memory is the same either way."""
    x, weight = torch.randn(2, 1, 4, 5), torch.randn(3, 1, 3, 3)
    y = functional.conv2d(channels_last(x), weight)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, functional.conv2d(x, weight))


def test_gradients_pass():
    x = torch.randn(2, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: channels_last(x) ** 2, x)
