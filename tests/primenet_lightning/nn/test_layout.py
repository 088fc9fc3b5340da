import pytest
import torch
from torch import nn
from torch.nn import functional

from primenet_lightning.nn.layout import FlattenMaps, channels_last


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


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.MaxPool2d(2)], ids=str)
@pytest.mark.parametrize("channels", [1, 5])
def test_flattened_maps_have_torchs_gradient_in_the_layout_of_the_maps(pool, channels):
    x = torch.randn(3, channels, 8, 6)
    factors = torch.randn(3, pool(x).numel() // 3)
    gradients, strides = [], []
    for flatten in (nn.Flatten(), FlattenMaps()):
        maps = channels_last(x).clone(memory_format=torch.preserve_format).requires_grad_()
        pooled = pool(maps * 2)
        flat = flatten(pooled)
        pooled.register_hook(lambda gradient: strides.append(gradient.stride()))
        assert torch.equal(flat, nn.Flatten()(pooled))
        (flat * factors).sum().backward()
        gradients.append(maps.grad)
    assert torch.equal(*gradients)
    if not pooled.is_contiguous():  # one channel, and one pixel, are the same in both layouts
        assert strides[1] == pooled.stride()


def test_what_is_flattened_itself_keeps_no_hook():
    x = channels_last(torch.randn(2, 3, 4, 4)).requires_grad_()
    FlattenMaps()(x).sum().backward()
    assert not x._backward_hooks
    assert torch.equal(x.grad, torch.ones_like(x))
