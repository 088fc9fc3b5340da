"""Curves of budgets on trained local classifiers."""

import pytest
import torch

from primenet_lightning import PrimeNet
from primenet_lightning.analysis.exits import budget_curve, record_exits
from primenet_lightning.nn.exits.costs import exit_costs
from primenet_lightning.nn.exits.local import LocalExits
from primenet_lightning.nn.exits.network import classify


def test_a_curve_of_a_prime_net_is_what_classifying_comes_to():
    torch.manual_seed(1)
    network = PrimeNet(depth=2, reduce_channels=2, channels=4, projection_channels=3, head_channels=5).network
    exits = LocalExits(network).eval()
    held_out, test = torch.randn(50, 1, 8, 8), torch.randn(30, 1, 8, 8)
    labels = torch.arange(50) % 10
    costs = exit_costs(exits, network.in_shape)
    records = [
        record_exits(exits, [(held_out[:32], labels[:32]), (held_out[32:], labels[32:])]),
        record_exits(exits, [(test, labels[:30])]),
    ]
    budgets = [costs[0], sum(costs) / 3, costs[-1]]
    for point in budget_curve(*records, costs, budgets):
        with torch.no_grad():
            logits, taken = classify(exits, test, point.thresholds)
        assert point.spent.multiply_adds == pytest.approx(sum(costs[place] for place in taken) / 30)
        assert point.spent.error == pytest.approx(100 * (logits.argmax(1) != labels[:30]).double().mean().item())
        (on_held_out,) = budget_curve(records[0], records[0], costs, [point.budget])
        assert on_held_out.spent.multiply_adds <= point.budget + 2 * (costs[-1] - costs[0]) / 50
    with pytest.raises(ValueError, match="is below"):
        budget_curve(*records, costs, [1])


def test_what_cannot_be_recorded_is_refused():
    exits = LocalExits(PrimeNet().network)
    with pytest.raises(ValueError, match="network is in training mode"):
        record_exits(exits, [])
    with pytest.raises(ValueError, match="batches are none"):
        record_exits(exits.eval(), [])
