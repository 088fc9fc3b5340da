import pytest
import torch
from torch.nn import functional

from primenet_lightning import Projection


def test_a_projection_may_have_more_layers():
    projection = Projection(2, 3)
    projection.append(torch.nn.BatchNorm2d(3))
    torch.testing.assert_close(projection(torch.randn(4, 2, 8, 8)).mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("size", "stride"), [((7, 8), (1, 1)), ((4, 4), (2, 2)), ((7, 4), (1, 2)), ((3, 8), (3, 1))])
def test_projection_is_pool_then_convolution_then_relu(size, stride):
    projection = Projection.to_size((2, 7, 8), 3, size).double()
    x = torch.randn(4, 2, 7, 8, dtype=torch.float64)
    padded = functional.pad(x, (1, 1, 1, 1), value=-torch.inf)
    pooled = padded.unfold(2, 3, stride[0]).unfold(3, 3, stride[1]).amax((-1, -2))
    convolution = projection[1]
    y = torch.einsum("oc,bchw->bohw", convolution.weight[:, :, 0, 0], pooled)
    torch.testing.assert_close(projection(x), (y + convolution.bias[:, None, None]).clamp(min=0))


def test_projection_meets_any_size_of_map():
    """An unpadded convolution's maps, which no stride gives."""
    x = torch.randn(4, 2, 8, 8)
    projection = Projection.to_size((2, 8, 8), 3, (6, 5))
    pooled = functional.adaptive_max_pool2d(x, (6, 5))
    torch.testing.assert_close(projection(x), projection[1](pooled).relu())
