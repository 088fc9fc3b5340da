"""Shares of a batch on two ranks: their weights, means over all, and random numbers."""

import math

import pytest
import torch
from torch import distributed

from primenet_lightning.nn.numbers import WHOLE
from primenet_lightning.training.batch_share import BatchShare

CPU = torch.device("cpu")


def share_out():
    """Of 20 images rank 0 has 13, and rank 1 has 7, a flag, and a loss that is no number."""
    rank = distributed.get_rank()
    share = BatchShare((13, 7)[rank], CPU, flags=[rank == 1, False])
    means = share.mean(torch.tensor([(1.0, 3.0), (2.0, math.nan)][rank]))
    return share.weight, means.tolist(), share.any([True, True])  # flags that are raised later are not looked at


def test_means_are_those_of_all_images_and_a_flag_of_one_is_heard_by_all(ranks):
    (weight, means, flags), (other_weight, other_means, other_flags) = ranks(share_out)
    assert (weight, other_weight) == (13 / 20, 7 / 20)
    assert means[0] == other_means[0] == pytest.approx((13 * 1 + 7 * 2) / 20)
    assert math.isnan(means[1])
    assert math.isnan(other_means[1])
    assert flags == other_flags == [True, False]


def draw(count_of_first):
    """Random numbers for 7 images on two ranks whose generators agree."""
    rank = distributed.get_rank()
    torch.manual_seed(11)
    count = (count_of_first, 7 - count_of_first)[rank]
    return BatchShare(count, CPU).draw(count, 3, CPU)


def test_ranks_draw_the_numbers_of_one_process_and_take_their_own(ranks):
    torch.manual_seed(11)
    alone = WHOLE.draw(7, 3, CPU)
    first, second = ranks(draw, 4)
    assert torch.equal(torch.cat([first, second]), alone)
    first, second = ranks(draw, 2)  # shares that somebody else has cut get numbers of their own
    assert (len(first), len(second)) == (2, 5)
    assert len(torch.cat([first, second]).unique()) == 21
