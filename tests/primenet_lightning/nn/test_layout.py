import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from primenet_lightning.nn.layout import channels_last, is_plain


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


def test_a_layer_is_plain_unless_it_is_more_than_its_parameters():
    class Scaled(nn.Linear):
        pass

    assert is_plain(nn.Linear(2, 2), nn.Linear)
    assert not is_plain(Scaled(2, 2), nn.Linear)
    assert not is_plain(nn.Conv2d(2, 2, 1), nn.Linear)
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        watched = nn.Linear(2, 2)
        getattr(watched, register)(lambda *_: None)
        assert not is_plain(watched, nn.Linear)
    replaced = nn.Linear(2, 2)
    replaced.forward = lambda x: x
    assert not is_plain(replaced, nn.Linear)
    assert not is_plain(parametrize.register_parametrization(nn.Linear(2, 2), "weight", nn.Identity()), nn.Linear)
