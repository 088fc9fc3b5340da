"""Layers that work in place where others see the same input are refused; elsewhere they give the same numbers."""

import pytest
import torch
from torch import nn

from primenet_lightning import Capsule, PrimeBlock

SHAPE = (2, 8, 8)


def capsule(first=None, classifier_first=None):
    features = nn.Sequential(nn.Identity() if first is None else first, nn.Conv2d(2, 4, 3, padding=1))
    classifier = nn.Sequential(
        nn.Identity() if classifier_first is None else classifier_first, nn.Flatten(), nn.Linear(4 * 64, 3)
    )
    return Capsule(features, classifier)


class AddOne(nn.Module):
    def forward(self, x):
        return x.add_(1)


@pytest.mark.parametrize("layer", [nn.ReLU(inplace=True), nn.LeakyReLU(inplace=True), nn.SiLU(inplace=True), AddOne()])
def test_a_capsule_that_changes_its_input_is_refused_when_the_block_is_built(layer):
    with pytest.raises(ValueError, match="capsule a changes its input in place, which the other capsules"):
        PrimeBlock(SHAPE, {"a": capsule(layer), "b": capsule()}, None)


def test_a_classifier_that_changes_the_map_is_refused():
    with pytest.raises(ValueError, match="the classifier of a capsule changes its input in place"):
        PrimeBlock(SHAPE, {"a": capsule(classifier_first=nn.ReLU(inplace=True))}, None)


def test_a_projection_that_changes_its_input_is_refused():
    projection = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(2, 3, 1))
    with pytest.raises(ValueError, match="the projection changes its input in place, which the capsules see too"):
        PrimeBlock(SHAPE, {"a": capsule()}, projection)


def test_what_changes_its_input_in_training_alone_is_refused_there():
    block = PrimeBlock(SHAPE, {"a": capsule(nn.Dropout(0.5, inplace=True)), "b": capsule()}, None)
    with pytest.raises(ValueError, match="capsule a changes its input in place"):
        block(torch.randn(4, *SHAPE), torch.tensor([0, 1, 2, 0]))


def test_in_place_layers_further_inside_give_the_same_losses():
    losses = []
    for inplace in (False, True):
        torch.manual_seed(0)
        features = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=inplace))
        inner = Capsule(features, nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, 3)))
        block = PrimeBlock(SHAPE, {"a": inner, "b": capsule()}, None)
        out = block(torch.randn(4, *SHAPE), torch.tensor([0, 1, 2, 0]))
        losses.append([float(loss) for loss in out.losses.values()])
    assert losses[0] == losses[1]
