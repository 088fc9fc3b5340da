"""CutNet: any backbone under Lightning."""

import copy

import pytest
import small
import torch
from tiny import TinyData
from torch import nn

from primenet_lightning import CutNet


def backbone():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(96, 3),
    )  # fmt: skip


DATA = {"in_channels": 2, "image_size": (8, 8), "num_classes": 3}


def data():
    return TinyData(batch_size=20)


def test_six_lines_train_a_backbone_locally(make_trainer):
    model = CutNet("resnet20", **DATA, parts=3, recipe="greedy")
    trainer = make_trainer(max_epochs=1)
    trainer.fit(model, data())
    (results,) = trainer.test(model, data(), verbose=False)
    assert {"test/error", "test/error/part0", "test/error/part1", "test/loss/head"} <= set(results)
    # afterwards it is an ordinary model
    x = torch.randn(2, 2, 8, 8)
    model.eval()
    assert torch.equal(model(x), model.backbone(x))
    assert all(parameter.is_leaf for parameter in model.backbone.parameters())


@pytest.mark.parametrize("recipe", ["dgl", "man", "overlap", {"infopro": {"prediction": 1}}])
def test_modules_of_ones_own_are_trained_and_loaded(make_trainer, tmp_path, recipe):
    model = CutNet(backbone(), **DATA, at=["3"], recipe=recipe)
    assert model.strictly_local == (recipe != "overlap")
    before = copy.deepcopy(model.backbone.state_dict())
    trainer = make_trainer(max_epochs=1)
    trainer.fit(model, data())
    assert not torch.equal(model.backbone[0].weight, before["0.weight"])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = CutNet.load_from_checkpoint(tmp_path / "last.ckpt", backbone=backbone(), weights_only=True)
    assert loaded.hparams["recipe"] == recipe
    assert "backbone" not in loaded.hparams
    x = torch.randn(2, 2, 8, 8)
    assert torch.equal(loaded.eval()(x), model.eval()(x))


def test_a_backbone_by_name_is_loaded_without_more(make_trainer, tmp_path):
    model = CutNet("resnet20", **DATA, parts=2)
    trainer = make_trainer(max_epochs=1, limit_train_batches=1)
    trainer.fit(model, data())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = CutNet.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    # and a fine-tuning begins with its weights, with a gradient boundary elsewhere
    tuned = CutNet("resnet20", **DATA, at=["blocks.6"], pretrained=str(tmp_path / "last.ckpt"), frozen=["stem"])
    assert all(map(torch.equal, tuned.backbone.state_dict().values(), model.backbone.state_dict().values()))


def test_the_twin_begins_with_the_same_weights_and_has_one_loss(make_trainer):
    models = []
    for local in (True, False):
        torch.manual_seed(3)
        models.append(CutNet("resnet20", **DATA, parts=4, recipe="auglocal", local=local))
    local, twin = models
    assert twin.network.loss_names == ["head"]
    assert all(map(torch.equal, local.backbone.state_dict().values(), twin.backbone.state_dict().values()))
    assert len(list(twin.parameters())) == len(list(twin.backbone.parameters()))
    make_trainer(max_epochs=1, limit_train_batches=2).fit(twin, data())


@pytest.mark.parametrize("local", [True, False])
def test_frozen_modules_stay_in_evaluation_under_a_trainer(make_trainer, local):
    model = CutNet(backbone(), **DATA, at=["3"], frozen=["0", "1"], local=local)
    before = copy.deepcopy(model.backbone.state_dict())
    make_trainer(max_epochs=1, limit_train_batches=2).fit(model, data())
    changed = {name for name, value in model.backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"3.weight", "3.bias", "5.weight", "5.bias", "9.weight", "9.bias"}


def test_a_subclass_may_build_the_backbone():
    class Small(CutNet):
        def configure_backbone(self):
            return small.vit()

    model = Small(image_size=(32, 32), num_classes=5, parts=2, recipe="man")
    assert type(model.backbone).__name__ == "VisionTransformer"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"backbone": "resnet20", "parts": 2, "at": ["blocks.3"]}, "give the names of the modules to cut at"),
        ({"backbone": backbone(), "pretrained": True}, "pretrained=True is for a backbone by name; load or build"),
        ({"backbone": backbone(), "backbone_options": {"a": 1}}, "backbone_options={'a': 1} is for a backbone"),
        ({"backbone": backbone(), "num_classes": 4}, "num_classes=4, but the backbone gives 3 logits an image"),
        ({"backbone": "resnet20", "parts": 99}, "parts=99 is too many"),
        ({"backbone": "resnet20", "recipe": "best"}, "recipe='best' is unknown"),
    ],
)  # fmt: skip
def test_impossible_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        CutNet(**DATA | options)
