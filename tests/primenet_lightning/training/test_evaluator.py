"""What all models predict and evaluate by."""

import torch
from torch import nn

from primenet_lightning import CutNet
from primenet_lightning.nn.whole import WholeNetwork


def test_a_network_that_is_put_in_its_place_predicts():
    torch.manual_seed(0)
    model = CutNet(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)), 1, (8, 8), 3, local=False)
    x = torch.randn(4, 1, 8, 8)
    before = model(x)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    model.network = WholeNetwork(layers, (1, 8, 8))
    assert torch.equal(model(x), layers(x))
    assert not torch.equal(model(x), before)
    assert model.section.network is model.network
