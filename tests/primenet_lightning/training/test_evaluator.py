"""What all models predict and evaluate by."""

import pytest
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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_labels_for_a_gpu_are_looked_at_before_they_go_there(device, monkeypatch):
    model = CutNet(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)), 1, (8, 8), 3)
    monkeypatch.setattr(CutNet, "device", torch.device(device))
    images, wrong = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    for batch in ((images, wrong % 3), images, (images, ["a.png", "b.png", "c.png", "d.png"])):
        assert model.on_before_batch_transfer(batch, 0) is batch
    if device == "cuda":
        with pytest.raises(ValueError, match="labels go from 0 to 3, but num_classes=3"):
            model.on_before_batch_transfer((images, wrong), 0)
    else:
        assert model.on_before_batch_transfer((images, wrong), 0)[1] is wrong
        with pytest.raises(ValueError, match="labels go from 0 to 3, but num_classes=3"):
            model.images_and_target((images, wrong))
