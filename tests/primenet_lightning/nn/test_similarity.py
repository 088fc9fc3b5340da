import numpy
import pytest
import torch
from formulas import double, similarity_by_pairs

from primenet_lightning.nn.similarity import similarity_loss

TARGET = torch.tensor([0, 3, 2, 2, 1, 0])


@pytest.mark.parametrize("shape", [(5, 3, 4), (4, 1, 2), (7, 1, 1), (3, 4, 4), (2, 1, 3)])
@pytest.mark.parametrize("num_classes", [4, 10])
def test_similarity_is_the_loop_over_pairs_of_images(shape, num_classes):
    """Deviations over space; of maps of one pixel, or three channels and fewer, all values."""
    features = double(6, *shape)
    expected = similarity_by_pairs(features, TARGET, num_classes)
    torch.testing.assert_close(similarity_loss(features, TARGET, num_classes), expected, rtol=1e-12, atol=1e-12)
    channels_last = features.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(similarity_loss(channels_last, TARGET, num_classes), expected)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3e4])
@pytest.mark.parametrize("size", [(5, 5), (1, 1)])
@pytest.mark.parametrize("channels", [2, 5])
def test_constant_maps_are_like_nothing_and_get_no_gradient(value, size, channels):
    features = torch.randn(6, channels, *size)
    features[1] = value
    features.requires_grad_()
    loss = similarity_loss(features, TARGET, 4)
    rest = [0, 2, 3, 4, 5]
    # five pairs with image 1 in either order, all of other classes, and the one with itself
    expected = (25 * similarity_by_pairs(features[rest].detach().double(), TARGET[rest], 4) + 10 / 9 + 1) / 36
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(loss, features)
    assert not gradient[1].any()
    assert gradient[rest].isfinite().all()
    assert gradient.abs().max() < 10


def test_a_constant_channel_is_constant_whatever_its_value_rounds_to():
    features = torch.randn(6, 5, 7, 7)
    features[:, 2] = 0.1
    features.requires_grad_()
    loss = similarity_loss(features, TARGET, 4)
    torch.testing.assert_close(loss.double(), similarity_by_pairs(features.double(), TARGET, 4), rtol=1e-5, atol=0)
    assert not torch.autograd.grad(loss, features)[0][:, 2].any()


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_scale_of_the_features_does_not_matter(scale):
    features = torch.randn(6, 5, 4, 4)
    torch.testing.assert_close(similarity_loss(features * scale, TARGET, 4), similarity_loss(features, TARGET, 4))


@pytest.mark.parametrize("scale", [1e-21, 1e-30])
@pytest.mark.parametrize("size", [(4, 4), (1, 1)])
def test_features_whose_squares_underflow_are_constant(scale, size):
    features = (torch.randn(6, 5, *size) * scale).requires_grad_()
    loss = similarity_loss(features, TARGET, 4)
    same = TARGET[:, None] == TARGET
    torch.testing.assert_close(loss, torch.where(same, 1.0, 1 / 9).mean())
    assert not torch.autograd.grad(loss, features)[0].any()


def test_similarity_alone_sorts_features_by_class():
    torch.manual_seed(0)
    features = torch.randn(6, 5, 3, 3, requires_grad=True)
    optimizer = torch.optim.Adam([features], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        similarity_loss(features, TARGET, 4).backward()
        optimizer.step()
    cosines = torch.from_numpy(numpy.corrcoef(features.detach().std((2, 3))))
    same = TARGET[:, None] == TARGET
    torch.testing.assert_close(cosines, torch.where(same, 1.0, -1 / 3).double(), atol=0.02, rtol=0)
