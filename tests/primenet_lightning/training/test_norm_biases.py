"""Biases of normalization layers at a rate of their own, against a loop in plain torch."""

from functools import partial

import pytest
import torch
from tiny import TinyData, make_model, make_trainer
from torch import nn
from torch.optim import SGD, AdamW, Rprop
from torch.optim.lr_scheduler import ExponentialLR, LinearLR, OneCycleLR

from primenet_lightning import EndToEnd, PaperAdam
from primenet_lightning.training.norm_biases import learn_faster, norm_biases
from primenet_lightning.training.optimizer_recipe import OptimizerRecipe


def norms():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 6), nn.LayerNorm(6), nn.Linear(6, 3)
    )


class Norms(EndToEnd):
    def configure_backbone(self):
        torch.manual_seed(1)
        return norms()


def norms_model(**options):
    return Norms(in_channels=2, image_size=(8, 8), num_classes=3, **options)


def test_they_are_the_biases_of_all_kinds_of_norms_and_no_others():
    network = nn.ModuleList(
        [
            nn.Conv1d(1, 2, 1),
            nn.BatchNorm1d(2),
            nn.SyncBatchNorm(2),
            nn.InstanceNorm2d(2, affine=True),
            nn.InstanceNorm2d(2),
            nn.GroupNorm(1, 2),
            nn.LayerNorm(2),
            nn.LayerNorm(2, bias=False),
            nn.RMSNorm(2),
        ]
    )
    network[1].weight.requires_grad_(False)
    assert [id(bias) for bias in norm_biases(network)] == [id(network[place].bias) for place in (1, 2, 3, 5, 6)]
    network[6].bias.requires_grad_(False)
    assert len(norm_biases(network)) == 4


def test_it_learns_as_a_loop_with_two_groups_does(tmp_path):
    """The trial's own lines: `bias` at rate lrb, decay wd/lrb; the others at rate lr, decay wd/lr."""
    lr, factor, decay = 0.02, 8, 0.0015
    make = partial(SGD, momentum=0.85, nesterov=True, weight_decay=decay / lr)
    model = norms_model(optimizer=make, lr=lr, bias_lr_factor=factor)
    twin = norms()
    twin.load_state_dict(model.network.model.state_dict())
    biases = [twin[1].bias, twin[4].bias]
    others = [parameter for parameter in twin.parameters() if all(parameter is not bias for bias in biases)]
    groups = [
        dict(params=biases, lr=lr * factor, weight_decay=decay / (lr * factor)),
        dict(params=others, lr=lr, weight_decay=decay / lr),
    ]
    optimizer = SGD(groups, momentum=0.85, nesterov=True)
    data = TinyData(batch_size=20)
    make_trainer(tmp_path).fit(model, data)
    for images, target in data.train_dataloader():
        loss = nn.functional.cross_entropy(twin(data.normalize(images)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.network.model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [SGD, AdamW, PaperAdam, Rprop])
def test_every_optimizer_gets_groups_that_keep_its_settings(make):
    network = norms()
    optimizer = make(network.parameters(), lr=0.5)
    before = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    learn_faster(optimizer, norm_biases(network), 4)
    others, biases = optimizer.param_groups
    changed = {"lr": 2.0}
    if "weight_decay" in before:
        changed["weight_decay"] = before["weight_decay"] / 4
    assert {key: value for key, value in others.items() if key != "params"} == before
    assert {key: value for key, value in biases.items() if key != "params"} == before | changed
    assert [len(group["params"]) for group in (others, biases)] == [8, 2]


def test_groups_of_the_users_are_split_each_by_itself():
    network = norms()
    optimizer = SGD([dict(params=network[:2].parameters(), lr=1.0), dict(params=network[2:].parameters(), lr=0.1)])
    learn_faster(optimizer, norm_biases(network), 2)
    assert [(group["lr"], len(group["params"])) for group in optimizer.param_groups] == [
        (1.0, 3),
        (2.0, 1),
        (0.1, 5),
        (0.2, 1),
    ]
    alone = SGD([network[1].bias], lr=1.0)
    learn_faster(alone, norm_biases(network), 2)
    assert [group["lr"] for group in alone.param_groups] == [2.0]


class Groups(Norms):
    def configure_backbone(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(128, 3))


def test_what_cannot_work_is_refused(tmp_path):
    for factor in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"bias_lr_factor={factor} is out of range; give a positive number"):
            norms_model(bias_lr_factor=factor)
    without = Groups(in_channels=2, image_size=(8, 8), num_classes=3, bias_lr_factor=64)
    with pytest.raises(ValueError, match="bias_lr_factor=64 is for biases of normalization layers, and the network"):
        make_trainer(tmp_path).fit(without, TinyData(batch_size=20))
    learners = {"head": list(norms().parameters())}
    biases = [learners["head"][3]]
    levels = OptimizerRecipe(SGD, head_scheduler=partial(OneCycleLR, max_lr=0.1, total_steps=9), bias_lr_factor=4)
    with pytest.raises(ValueError, match=r"OneCycleLR of 'head' sets the rates of groups itself.*bias_lr_factor=4"):
        levels.make(learners, norm_biases=biases)


@pytest.mark.parametrize(
    "scheduler", [partial(ExponentialLR, gamma=0.5), partial(LinearLR, start_factor=1e-9, total_iters=3)]
)
def test_schedulers_of_one_learner_that_multiply_are_taken(scheduler):
    learners = {"head": list(norms().parameters())}
    recipe = OptimizerRecipe(SGD, head_scheduler=scheduler, bias_lr_factor=4)
    composite, _ = recipe.make(learners, lr=0.5, norm_biases=[learners["head"][3]])
    first, second = (group["lr"] for group in composite.param_groups)
    assert second == pytest.approx(4 * first)


def fit(folder, ckpt_path=None, **options):
    model = make_model(optimizer=partial(SGD, weight_decay=0.01), lr=0.02, **options)
    trainer = make_trainer(folder, max_epochs=1 if ckpt_path is None else 2)
    trainer.fit(model, TinyData(batch_size=20), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_a_resumed_run_follows_another_factor_and_refuses_to_begin_with_one(tmp_path):
    fit(tmp_path, bias_lr_factor=16).save_checkpoint(tmp_path / "a.ckpt")
    groups = fit(tmp_path, tmp_path / "a.ckpt", bias_lr_factor=4).optimizers[0].param_groups
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(0.02, 0.01), (0.08, 0.0025)}
    with pytest.raises(ValueError, match=r"the number of parameter groups of 'block0.k3' was 2 in the run"):
        fit(tmp_path, tmp_path / "a.ckpt")
