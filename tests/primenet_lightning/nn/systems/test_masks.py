"""Masks against a planted order, and loops over filters."""

import math

import pytest
import torch

from primenet_lightning.nn.systems.masks import group_lasso, importance, masked, without_least


def planted():
    """Four filters in two groups; group 0 reads channel j with j + 1, group 1 the other way round."""
    weight = torch.tensor([[1.0, -2.0, 3.0, -4.0], [4.0, 3.0, -2.0, 1.0]]).repeat(2, 1)
    return weight[:, :, None, None]


def test_each_group_gives_up_what_it_reads_least_and_never_takes_it_back():
    alive = torch.ones(2, 4, dtype=torch.bool)
    weight = planted()
    gone = []
    for _ in range(3):
        alive = without_least(alive, importance(weight, alive), 1)
        gone.append([(~row).nonzero().flatten().tolist() for row in alive])
        weight = weight + 100 * ~alive.repeat(2, 1)[:, :, None, None]  # what is masked may become large
    assert gone == [[[0], [3]], [[0, 1], [2, 3]], [[0, 1, 2], [1, 2, 3]]]


def test_a_living_channel_of_zeros_goes_before_others_and_no_masked_one_again():
    alive = torch.tensor([[False, True, True]])
    weight = torch.tensor([[5.0, 0.0, 1.0]])[:, :, None, None]
    assert without_least(alive, importance(weight, alive), 1).tolist() == [[False, False, True]]
    with pytest.raises(ValueError, match="count=3 channels cannot be given up; a group has 2 left"):
        without_least(alive, importance(weight, alive), 3)


def test_gradients_of_masked_weights_are_zero():
    torch.manual_seed(0)
    weight = torch.randn(6, 4, 1, 1, requires_grad=True)
    alive = torch.rand(3, 4) > 0.5
    masked(weight, alive).square().sum().backward()
    for filter_ in range(6):
        for channel in range(4):
            expected = 2 * weight[filter_, channel, 0, 0].item() * alive[filter_ % 3, channel].item()
            assert weight.grad[filter_, channel, 0, 0].item() == pytest.approx(expected)


def test_lasso_is_the_plain_formula():
    torch.manual_seed(1)
    weight, alive = torch.randn(6, 4, 1, 1, dtype=torch.float64), torch.rand(2, 4) > 0.4
    expected = 0.0
    for group in range(2):
        for channel in range(4):
            square = sum(weight[o, channel, 0, 0].item() ** 2 for o in range(6) if o % 2 == group)
            expected += math.sqrt(max(1e-6, square * alive[group, channel].item()))
    assert group_lasso(weight, alive).item() == pytest.approx(expected, abs=1e-12)


def test_lasso_in_closed_form():
    ones, alive = torch.ones(8, 4, 1, 1), torch.ones(2, 4, dtype=torch.bool)
    assert group_lasso(ones, alive).item() == 16
    alive[:, :2] = False
    assert group_lasso(ones, alive).item() == pytest.approx(8 + 4 * 1e-3)
