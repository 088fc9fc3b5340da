import pytest
import torch
from stepping import run_stages
from tiny import TinyData, make_model
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d

from primenet_lightning import PrimeNet
from primenet_lightning.analysis.features import extract_features, feature_extractor
from primenet_lightning.datamodules.features import FeatureDataModule, SplitFeatures

IMAGES = torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(1))


class NoLinear(PrimeNet):
    def configure_head(self, in_shape):
        return nn.Sequential(nn.Conv2d(in_shape[0], self.num_classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def deep(**options):
    """Two blocks, batch norms with statistics, and a route that is not the first."""
    model = make_model(depth=2, **options)
    for _ in range(3):
        list(run_stages(model.network, IMAGES, torch.arange(6) % 3))
    if model.local:
        for _ in range(4):
            model.network.history.append((2, 1))
    return model.eval()


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(inference_routing="min_entropy"),
        dict(inference_routing=(0, 2)),
        dict(router="gate"),
        dict(router="concatenate"),
        dict(router="mean", local=False),
    ],
)
def test_features_give_the_networks_own_answer(options):
    model = deep(**options)
    with torch.no_grad():
        answer = model(IMAGES)
        last = model.network.head.classifier
        assert torch.allclose(last(feature_extractor(model)(IMAGES)), answer, atol=1e-6)
        routed = feature_extractor(model.network, "routed")(IMAGES)
        assert torch.allclose(routed, adaptive_avg_pool2d(model.network.features(IMAGES), 4).flatten(1), atol=1e-6)
    assert not any(part._forward_pre_hooks for part in model.network.modules())


def by_hand(model, images):
    """Maps of the last block's capsules, and what the head sees, on the route (2, 1)."""
    first, second = model.network.prime_blocks
    x = torch.cat([first.capsules["k7"].features(images), first.projection(images)], 1)
    x = max_pool2d(x, 2)
    maps = [capsule.features(x) for capsule in second.capsules.values()]
    return maps, torch.cat([maps[1], second.projection(x)], 1)


def test_features_equal_those_by_hand():
    model = deep()
    maps, routed = by_hand(model, IMAGES)
    expected = {
        "head": model.network.head.features(routed),
        "routed": adaptive_avg_pool2d(routed, 4).flatten(1),
        "capsules": torch.cat([adaptive_avg_pool2d(one, 4).flatten(1) for one in maps], 1),
    }
    for layer, features in expected.items():
        assert torch.allclose(feature_extractor(model, layer)(IMAGES), features, atol=1e-6)


@pytest.mark.parametrize("layer", ["head", "routed", "capsules"])
def test_gradient_goes_end_to_end_along_the_route_and_nowhere_else(layer):
    model = deep()
    feature_extractor(model, layer)(IMAGES).square().sum().backward()
    reached = {name for name, parameter in model.network.named_parameters() if parameter.grad is not None}
    last = {
        "head": ["blocks.1.capsules.k5.features.", "blocks.1.projection.", "head.features."],
        "routed": ["blocks.1.capsules.k5.features.", "blocks.1.projection."],
        "capsules": [f"blocks.1.capsules.{name}.features." for name in ("k3", "k5", "k7")],
    }
    parts = ("blocks.0.capsules.k7.features.", "blocks.0.projection.", *last[layer])
    expected = {name for name, _ in model.network.named_parameters() if name.startswith(parts)}
    assert reached == expected


def test_any_network_gives_what_its_last_linear_layer_sees():
    first, last = nn.Linear(128, 7), nn.Linear(7, 3)
    network = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)
    assert torch.equal(feature_extractor(network)(IMAGES), first(IMAGES.flatten(1)).relu())
    assert feature_extractor(network.double())(IMAGES).dtype == torch.float64
    with pytest.raises(ValueError, match="layer='routed' is of a PrimeNet, and Sequential is none; use 'head'"):
        feature_extractor(network, "routed")
    with pytest.raises(ValueError, match="Conv2d without a linear layer"):
        feature_extractor(nn.Conv2d(2, 3, 1))
    with pytest.raises(ValueError, match="layer='hed' is unknown"):
        feature_extractor(network, "hed")


def test_head_without_a_linear_layer():
    with pytest.raises(ValueError, match=r"layer='head' needs .* use 'routed'"):
        feature_extractor(make_model(NoLinear))
    assert feature_extractor(make_model(NoLinear), "routed")(IMAGES).shape == (6, 16 * 7)


def test_whole_splits_are_extracted_in_order_in_evaluation_mode():
    model, data = deep(), TinyData(augmentation=torch.zeros_like)
    model.train()
    model.network.head.eval()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    modes = [part.training for part in model.modules()]
    counted = []
    splits = extract_features(feature_extractor(model), data, batch_size=31, on_batch=counted.append)
    assert counted == [31, 31, 13, 8, 20]
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.network.state_dict().items())
    model.eval()
    for name, dataset in (
        ("train", data.train_dataset),
        ("validation", data.validation_dataset),
        ("test", data.test_dataset),
    ):
        images, labels = dataset[torch.arange(len(dataset))]
        _, routed = by_hand(model, data.normalize(images))
        assert torch.equal(splits[name].labels, labels)
        assert torch.allclose(splits[name].features, model.network.head.features(routed), atol=1e-6)
        assert not splits[name].features.requires_grad


def test_bad_splits_are_told_in_a_sentence():
    split = SplitFeatures(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
    splits = dict.fromkeys(("train", "validation", "test"), split)
    for name, bad, sentence in (
        ("test", SplitFeatures(torch.full((4, 2), torch.nan), split.labels), "the test features are not finite"),
        ("validation", SplitFeatures(torch.zeros(4, 3), split.labels), r"the validation features have shape \(4, 3\)"),
        ("train", SplitFeatures(torch.zeros(3, 2), split.labels), r"shape \(3, 2\) for 4 labels"),
    ):
        with pytest.raises(ValueError, match=sentence):
            FeatureDataModule(splits | {name: bad})
    with pytest.raises(ValueError, match="splits has no 'test'"):
        FeatureDataModule({"train": split, "validation": split})
