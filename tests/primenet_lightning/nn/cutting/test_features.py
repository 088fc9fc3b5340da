"""What the dimensions of a part's output mean."""

import pytest
import small
import torch

from primenet_lightning.nn.cutting.cut import pieces_of
from primenet_lightning.nn.cutting.features import Features, FromMaps, ToMaps, normalised_maps


@pytest.mark.parametrize(
    ("shape", "image", "layout", "channels", "map_size"),
    [
        ((64, 8, 8), (3, 32, 32), "maps", 64, (8, 8)),
        ((7, 7, 64), (3, 224, 224), "maps_last", 64, (7, 7)),
        ((8, 8, 8), (3, 32, 32), "maps", 8, (8, 8)),  # which of both cannot be told; maps are more usual
        ((16, 4, 8), (3, 32, 64), "maps", 16, (4, 8)),
        ((4, 8, 24), (3, 32, 64), "maps_last", 24, (4, 8)),
        ((512, 1, 1), (3, 32, 32), "maps", 512, (1, 1)),
        ((17, 24), (3, 32, 32), "tokens", 24, (17, 1)),
        ((24,), (3, 32, 32), "vectors", 24, (1, 1)),
        ((16, 8), (16,), "tokens", 8, (16, 1)),
    ],
)
def test_layouts_are_told_by_shape(shape, image, layout, channels, map_size):
    features = Features.of(shape, image)
    assert (features.layout, features.channels, features.map_size) == (layout, channels, map_size)
    x = torch.randn(3, *shape)
    maps = ToMaps(layout)(x)
    assert maps.shape == (3, channels, *map_size)
    assert torch.equal(FromMaps(layout)(maps), x)
    assert normalised_maps(features)(x).shape == maps.shape
    assert features.with_channels(channels) == features
    assert features.with_channels(5).channels == 5


def test_layouts_of_real_models():
    layouts = {}
    for name in ("resnet", "vit", "swin"):
        layouts[name] = [piece.gives.layout for piece in pieces_of(getattr(small, name)(), (3, 32, 32))[1:-2]]
    assert set(layouts["resnet"]) == {"maps"}
    assert set(layouts["vit"]) == {"tokens"}
    assert set(layouts["swin"]) == {"maps_last"}


def test_normalised_tokens_have_no_mean_and_the_same_variance():
    maps = normalised_maps(Features((9, 64), "tokens"))(5 + 100 * torch.randn(2, 9, 64))
    torch.testing.assert_close(maps.mean(1), torch.zeros(2, 9, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(maps.var(1, unbiased=False), torch.ones(2, 9, 1), atol=1e-4, rtol=0)


def test_features_of_four_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"features of shape \(8, 2, 4, 4\) an image, which no local classifier"):
        Features.of((8, 2, 4, 4), (3, 32, 32))
