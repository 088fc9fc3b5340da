"""The whitening convolution."""

import numpy as np
import pytest
import torch

from primenet_lightning.nn.whitening import Whitening, whitening_filters


def correlated(count, channels, seed=0):
    """Images whose pixels and channels go together, as those of photographs do."""
    torch.manual_seed(seed)
    smooth = torch.randn(count, channels, 4, 4)
    images = torch.nn.functional.interpolate(smooth, size=(9, 9), mode="bilinear")
    return images + images.mean(1, keepdim=True) + 0.1 * torch.randn(count, channels, 9, 9)


@pytest.mark.parametrize(("channels", "side"), [(1, 2), (3, 2), (3, 3), (2, 1)])
def test_whitened_patches_have_the_identity_as_their_second_moments(channels, side):
    images = correlated(300, channels)
    filters = whitening_filters(images, side, epsilon=1e-9).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(images.numpy(), (side, side), axis=(2, 3))
    patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, channels * side * side)
    whitened = patches.astype(np.float64) @ filters.reshape(len(filters), -1).T.astype(np.float64)
    moments = whitened.T @ whitened / len(whitened)
    np.testing.assert_allclose(moments, np.eye(channels * side * side), atol=2e-3)
    # the first filter is that of the largest variance: it has the smallest weights
    norms = np.linalg.norm(filters.reshape(len(filters), -1), axis=1)
    assert (np.diff(norms) > 0).all()


def test_the_layer_gives_each_direction_and_its_negative():
    layer = Whitening(3)
    layer.whiten(correlated(200, 3))
    responses = layer(correlated(20, 3, seed=1))
    torch.testing.assert_close(responses[:, :12], -responses[:, 12:], atol=1e-5, rtol=0)


def test_the_filters_are_those_of_a_singular_value_decomposition():
    images = correlated(200, 3)
    filters = whitening_filters(images, 2)
    columns = torch.nn.functional.unfold(images, 2).transpose(1, 2).flatten(0, 1).double()
    _, singular, directions = torch.linalg.svd(columns / len(columns) ** 0.5, full_matrices=False)
    expected = directions / (singular**2 + 5e-4).sqrt()[:, None]
    torch.testing.assert_close(filters.flatten(1).abs().double(), expected.abs(), atol=1e-4, rtol=1e-4)


def test_only_the_bias_learns():
    layer = Whitening(1)
    layer(torch.randn(2, 1, 8, 8)).square().sum().backward()
    assert layer.weight.grad is None
    assert layer.bias is not None
    assert layer.bias.grad is not None


def test_an_image_that_never_varies_gives_finite_filters():
    assert whitening_filters(torch.zeros(3, 1, 8, 8), 2).isfinite().all()


def test_the_order_of_channels_in_memory_does_not_matter():
    images = correlated(20, 3)
    layer = Whitening(3)
    layer.whiten(images)
    torch.testing.assert_close(layer(images), layer(images.contiguous(memory_format=torch.channels_last)))
    assert layer(images).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(0, 3, 8, 8), "no patches of 2x2 pixels"),
        (torch.zeros(5, 3, 1, 8), "no patches of 2x2 pixels"),
        (torch.zeros(5, 1, 8, 8), "whitens images of 3 channels"),
        (torch.zeros(3, 8, 8), "whitens images of 3 channels"),
        (torch.full((5, 3, 8, 8), torch.nan), "NaN or infinite"),
    ],
)
def test_what_cannot_be_whitened_is_refused(images, words):
    layer = Whitening(3)
    with pytest.raises(ValueError, match=words):
        layer.whiten(images)
    assert not layer.is_whitened
