"""Gradients that ranks sum, and which batch-norm statistics travel with them."""

import torch
from tiny import make_model
from torch import distributed, nn

from primenet_lightning.training.gradient_sum import GradientSum, batch_norm_statistics


def sum_gradients():
    """One gradient that both ranks have, one that rank 1 has, one that nobody has, and one of another precision."""
    rank = distributed.get_rank()
    both, one, none, double = (nn.Parameter(torch.zeros(2, 3)) for _ in range(4))
    double.data = double.data.double()
    frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    both.grad = torch.full((2, 3), rank + 1.0)
    one.grad = torch.ones(2, 3) if rank == 1 else None
    double.grad = torch.full((2, 3), 1e-12 + rank, dtype=torch.float64)
    statistics = torch.tensor([4.0 * rank])
    gradients = GradientSum()
    gradients.start([both, frozen, one, none, double], [statistics], weight=(0.25, 0.75)[rank])
    gradients.finish()
    gradients.finish()  # nothing is left
    return [parameter.grad for parameter in (both, one, none, double, frozen)], statistics


def test_gradients_are_summed_and_one_that_nobody_has_stays_away(ranks):
    for (both, one, none, double, frozen), statistics in ranks(sum_gradients):
        assert torch.equal(both, torch.full((2, 3), 3.0))
        assert torch.equal(one, torch.ones(2, 3))
        assert none is frozen is None
        assert torch.equal(double, torch.full((2, 3), 1e-12 + (1 + 1e-12), dtype=torch.float64))
        assert statistics.tolist() == [3.0]


def test_synchronised_batch_norm_needs_no_average():
    network = make_model().network.train()
    assert len(batch_norm_statistics(network)) == 2 * (3 + 1)  # three capsules and the head
    assert batch_norm_statistics(nn.SyncBatchNorm.convert_sync_batchnorm(network)) == []
    assert batch_norm_statistics(network.eval()) == []
