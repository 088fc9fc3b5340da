"""Residual networks against their papers' figures and torchvision."""

import math
from functools import partial
from urllib.error import URLError

import pytest
import torch
from tiny import make_trainer
from torch import nn
from torch.optim import SGD
from torch.optim.swa_utils import update_bn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50
from torchvision.models.resnet import Bottleneck

from primenet_lightning.baselines import CifarResNet20, ResNet20, ResNet50, resnets
from primenet_lightning.datamodules import DigitsDataModule


def test_resnet20_has_the_size_that_its_paper_gives():
    net = ResNet20().eval()
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(0.27e6, rel=0.01)
    convolutions = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(convolutions) == 20
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert counter.get_total_flops() / 2 == pytest.approx(40.6e6, rel=0.01)


def test_resnet20_for_other_images_and_classes():
    assert CifarResNet20(1, (8, 8), 7)(torch.zeros(2, 1, 8, 8)).shape == (2, 7)


@pytest.fixture(scope="module")
def grey():
    """One for all tests: it has 24 million parameters."""
    torch.manual_seed(0)
    return ResNet50(1, (8, 8), 10, optimizer=partial(SGD, lr=0.03, momentum=0.9))


def test_resnet50_is_torchvisions_on_images_repeated_to_three_channels(grey):
    theirs = resnet50(num_classes=10).eval()
    theirs.load_state_dict(grey.network.model.resnet.state_dict())
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(grey.eval()(images), theirs(torch.cat([images] * 3, 1)))
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(grey.network(images), theirs(images))
    assert sum(p.numel() for p in resnet50().parameters()) == pytest.approx(25.6e6, rel=0.01)
    assert sum(p.numel() for p in grey.parameters()) == pytest.approx(23.5e6, rel=0.01)


def test_resnet50_learns_digits(grey, tmp_path):
    """Chance is an error of 90 %; there is time for six steps only."""
    for block in grey.modules():
        if isinstance(block, Bottleneck):
            nn.init.zeros_(block.bn3.weight)  # each begins as its shortcut (Goyal et al. 2017), and learns sooner
    data = DigitsDataModule(limit_train=300, batch_size=50)
    trainer = make_trainer(tmp_path, check_val_every_n_epoch=2)
    trainer.fit(grey.train(), data)
    assert trainer.global_step == 6
    # the running averages of batch norm are still near where they began: take them anew, from the same images
    update_bn([data.normalize(data.train_dataset[torch.arange(300)][0])], grey.network)
    (result,) = trainer.validate(grey, data, verbose=False)
    assert result["val/error"] < 40
    assert result["val/loss/head"] < 0.7 * math.log(10)


def test_pretrained_weights_are_taken_but_for_the_classifier(monkeypatch):
    source = nn.Module()
    source.fc = nn.Linear(2048, 1000)
    monkeypatch.setattr(resnets, "resnet50", lambda weights=None, num_classes=1000: source)
    model = ResNet50(3, (8, 8), 7, pretrained=True)
    assert model.network.model.resnet is source
    assert source.fc.weight.shape == (7, 2048)
    checkpoint = {"hyper_parameters": dict(model.hparams)}
    model._trainer = object.__new__(type("Trainer", (), {"global_step": 0}))
    model.on_save_checkpoint(checkpoint)
    assert not checkpoint["hyper_parameters"]["pretrained"]  # or loading it would download what it then replaces
    assert model.hparams["pretrained"]


def test_weights_that_cannot_be_had_and_strange_images(monkeypatch):
    def fail(weights):
        raise URLError("no route to host")

    monkeypatch.setattr(resnets, "resnet50", fail)
    with pytest.raises(
        ValueError, match=r"cannot be had \(.*no route.*\); use pretrained=False, or put https://\S+ into"
    ):
        ResNet50(pretrained=True)
    with pytest.raises(ValueError, match="in_channels=2 fits no ResNet-50"):
        ResNet50(in_channels=2)
