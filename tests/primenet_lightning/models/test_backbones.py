"""Backbones by name."""

import sys
from types import ModuleType
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision import models

from primenet_lightning.models.backbones import build_backbone, load_weights, replace_first_convolution


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (3, 32, 32)),
        ("torchvision/squeezenet1_1", (3, 32, 32)),
        ("mobilenet_v3_small", (1, 32, 32)),
        ("resnet20", (2, 9, 9)),
        ("shufflenet_v2_x0_5", (5, 32, 32)),
    ],
)
def test_models_take_the_images_and_give_the_classes(name, shape):
    model = build_backbone(name, shape, 7).eval()
    assert model(torch.zeros(2, *shape)).shape == (2, 7)


def test_transformers_are_built_for_the_size_of_the_images():
    with torch.device("meta"):
        model = build_backbone("vit_b_16", (3, 64, 64), 7)
    assert model.encoder.pos_embedding.shape[1] == 17


def test_options_go_to_the_builder():
    model = build_backbone("resnet18", (3, 32, 32), 7, options={"norm_layer": nn.InstanceNorm2d})
    assert isinstance(model.bn1, nn.InstanceNorm2d)


def test_the_librarys_weights_keep_all_but_the_last_layer(monkeypatch):
    weights = models.resnet18(num_classes=1000).state_dict()
    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", lambda *_, **__: weights)
    model = build_backbone("resnet18", (1, 32, 32), 7, pretrained=True)
    assert model.fc.out_features == 7
    assert torch.equal(model.layer1[0].conv1.weight, weights["layer1.0.conv1.weight"])
    # a grey image seen by each of the three channels
    grey = torch.randn(2, 1, 32, 32)
    coloured = torch.nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weights["conv1.weight"], stride=2, padding=3)
    torch.testing.assert_close(model.conv1(grey), coloured, rtol=1e-4, atol=1e-5)


def test_weights_that_cannot_be_downloaded_are_told(monkeypatch):
    def offline(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(ValueError, match=r"pretrained=True needs the weights of 'resnet18'.*give a file of weights"):
        build_backbone("resnet18", (3, 32, 32), 7, pretrained=True)


def test_a_first_convolution_of_more_channels_keeps_its_size_of_output():
    layer = nn.Sequential(nn.Conv2d(3, 4, 3))
    replace_first_convolution(layer, 6)
    image = torch.randn(2, 1, 8, 8)
    old = image.expand(-1, 6, -1, -1)
    assert layer[0].in_channels == 6
    assert layer(old).shape == (2, 4, 6, 6)


@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_of_a_file_are_taken_but_for_other_classes(tmp_path, wrapped):
    trained = build_backbone("resnet20", (3, 32, 32), 5)
    content = trained.state_dict()
    if wrapped:
        content = {"state_dict": {f"network.backbone.{name}": value for name, value in content.items()}}
    torch.save(content, tmp_path / "weights.pt")
    same = build_backbone("resnet20", (3, 32, 32), 5, pretrained=str(tmp_path / "weights.pt"))
    assert all(map(torch.equal, same.state_dict().values(), trained.state_dict().values()))
    other = build_backbone("resnet20", (3, 32, 32), 9, pretrained=str(tmp_path / "weights.pt"))
    assert torch.equal(other.stem[0].weight, trained.stem[0].weight)
    assert other.classifier[2].out_features == 9


def test_weights_of_another_model_are_refused(tmp_path):
    path = str(tmp_path / "weights.pt")
    torch.save(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(ValueError, match="has not the weights of this Sequential: weight has no place in it"):
        load_weights(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), path)
    torch.save({"0.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match=r"0.bias is missing; give the weights"):
        load_weights(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match="holds no weights; save them by"):
        load_weights(nn.Linear(2, 2), path)
    for missing in (str(tmp_path / "none.pt"), str(tmp_path)):
        with pytest.raises(ValueError, match="cannot be read as weights"):
            load_weights(nn.Linear(2, 2), missing)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("resnet19", {}, "backbone='resnet19' is unknown; did you mean 'resnet"),
        ("???", {}, r"backbone='\?\?\?' is unknown; use the name of a model of torchvision or, once it is installed"),
        ("torchvision/nothing", {}, "is unknown"),
        ("resnet18", {"depth": 3}, r"backbone='resnet18' cannot be built for images of shape \(3, 32, 32\) with"),
        ("resnet20", {"pretrained": True}, "there are no weights of it; give pretrained a file, or False"),
        ("vit_b_16", {"image_size": 31}, "Input shape indivisible by patch size"),
    ],
)  # fmt: skip
def test_impossible_backbones_are_refused(monkeypatch, name, options, sentence):
    monkeypatch.setitem(sys.modules, "timm", None)
    pretrained = options.pop("pretrained", False)
    with pytest.raises(ValueError, match=sentence):
        build_backbone(name, (3, 32, 32), 7, pretrained, options)


def test_timm_is_asked_where_it_is_installed(monkeypatch):
    timm = ModuleType("timm")
    asked = []

    def create_model(name, **options):
        asked.append(options)
        if "img_size" in options and name == "any_size":
            raise TypeError("unexpected keyword argument 'img_size'")
        return nn.Linear(2, 2)

    timm.create_model, timm.is_model = create_model, lambda name: name in ("any_size", "one_size")
    timm.list_models = lambda: ["any_size", "one_size"]
    monkeypatch.setitem(sys.modules, "timm", timm)
    build_backbone("one_size", (1, 64, 64), 7, pretrained=True, options={"drop_path_rate": 0.1})
    expected = {"pretrained": True, "num_classes": 7, "in_chans": 1, "drop_path_rate": 0.1}
    assert asked.pop() == expected | {"img_size": (64, 64)}
    build_backbone("timm/any_size", (1, 64, 64), 7, pretrained=True, options={"drop_path_rate": 0.1})
    assert asked.pop() == expected
    with pytest.raises(ValueError, match="did you mean 'one_size'"):
        build_backbone("one_sise", (1, 64, 64), 7)
