"""A cut backbone on two processes, resumed, and in half precision."""

import pytest
import torch
from lightning.pytorch import Callback
from tiny import AT_ONCE, SGDStep, TinyData, differences, distance, make_trainer, same, state, with_scaler
from torch import nn
from torchvision.models import DenseNet, VisionTransformer

from primenet_lightning import CutNet
from primenet_lightning.nn.resnets import SmallImageResNet

OPTIONS = {"in_channels": 2, "image_size": (8, 8), "num_classes": 3}
AT = {"resnet": ["blocks.1"], "vit": ["encoder.layers.encoder_layer_1"], "densenet": ["features.transition1"]}


def backbone(kind, norm=True):
    torch.manual_seed(0)
    if kind == "resnet":
        model = SmallImageResNet(8, 2, 3, width=4)
    elif kind == "vit":
        model = VisionTransformer(8, 2, 3, 2, 8, 16, num_classes=3, dropout=0.1)
        model.conv_proj = nn.Conv2d(2, 8, 2, 2)
    else:
        model = DenseNet(4, (2, 2), 4, num_classes=3, drop_rate=0.2)
        model.features.conv0 = nn.Conv2d(2, 4, 3, padding=1)
    if not norm:  # whose statistics are each process's own, and dropout each process's draws
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d | nn.Dropout):
                    setattr(module, name, nn.Identity())
                if hasattr(child, "drop_rate"):
                    child.drop_rate = 0.0
    return model


def make(kind, norm=True, recipe="auglocal", **options):
    model = backbone(kind, norm)
    classifier = None if recipe in ("auglocal", "predsim") else "pooled"
    options = OPTIONS | dict(at=AT[kind], optimizer=SGDStep(0.05), local_classifier=classifier) | options
    return CutNet(model, recipe=recipe, **options)


def fit(folder, devices, kind, **options):
    model = make(kind, norm=False, **options)
    strategy = "ddp" if devices > 1 else "auto"
    trainer = make_trainer(folder, precision="64-true", max_epochs=2, devices=devices, strategy=strategy)
    trainer.fit(model, TinyData(batch_size=20))
    return state(model)


@pytest.mark.parametrize(
    ("kind", "recipe", "rhythm"),
    [
        ("resnet", "auglocal", {}),
        ("vit", "man", {}),
        ("densenet", "greedy", AT_ONCE),
        ("resnet", "overlap", {}),
        ("vit", "overlap", AT_ONCE),
    ],
)
def test_two_processes_train_what_one_trains(kind, recipe, rhythm, ranks, tmp_path):
    options = dict(recipe=recipe) | rhythm
    one = fit(tmp_path, 1, kind, **options)
    first, second = ranks(run, tmp_path, 2, kind, options)
    assert same(first, second)
    assert distance(one, first) < 1e-9


def run(folder, devices, kind, options):
    """For the processes, which hand on no options by name."""
    return fit(folder, devices, kind, **options)


class Save(Callback):
    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize(("kind", "recipe"), [("resnet", "infopro"), ("vit", "man"), ("densenet", "predsim")])
def test_a_run_resumed_in_mid_epoch_ends_as_the_one_that_went_on(kind, recipe, tmp_path):
    middle, end = tmp_path / "middle.ckpt", tmp_path / "end.ckpt"
    for path in (None, middle):
        torch.manual_seed(5)
        model = make(kind, recipe=recipe)
        save = [] if path else [Save(middle, 2)]
        trainer = make_trainer(tmp_path, save, max_epochs=2)
        trainer.fit(model, TinyData(batch_size=20), ckpt_path=path, weights_only=True)
        if path is None:
            trainer.save_checkpoint(end)
            went_on = torch.load(end, weights_only=True)
    trainer.save_checkpoint(end)
    resumed = torch.load(end, weights_only=True)
    assert differences(resumed["state_dict"], went_on["state_dict"]) == []
    assert differences(resumed["optimizer_states"], went_on["optimizer_states"]) == []


@pytest.mark.parametrize("kind", ["resnet", "vit", "densenet"])
def test_a_scaler_changes_only_rounding(kind, tmp_path):
    states = []
    for options in ({}, with_scaler()):
        model = make(kind, norm=False, recipe="greedy")
        trainer = make_trainer(tmp_path, max_epochs=1, **options)
        trainer.fit(model, TinyData(batch_size=20))
        states.append(state(model))
    begun = state(make(kind, norm=False, recipe="greedy"))
    assert distance(states[0], begun) > 10 * distance(states[0], states[1])
