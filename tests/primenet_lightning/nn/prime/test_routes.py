from collections import Counter

import pytest
import torch

from primenet_lightning.nn.prime.routes import (
    RouteHistory,
    least_entropy,
    least_loss,
)


def test_least_loss_is_numpys_argmin_and_ties_go_to_the_first():
    losses = torch.rand(50, 4)
    assert [least_loss(row) for row in losses.tolist()] == losses.numpy().argmin(1).tolist()
    assert least_loss([2.0, 1.0, 1.0]) == 1
    assert least_loss([float("inf"), float("inf")]) == 0


def test_least_entropy_is_scipys():
    from scipy.stats import entropy

    logits = torch.randn(3, 40, 5)
    expected = entropy(logits.double().softmax(-1).numpy(), axis=-1).argmin(0)
    assert least_entropy(logits).tolist() == expected.tolist()
    tie = torch.zeros(3, 1, 4)
    assert least_entropy(tie).tolist() == [0]


def test_history_forgets_what_is_older_than_its_window():
    history = RouteHistory(4)
    for index in [2, 2, 0, 1, 1, 1]:
        history.append((index,))
    assert list(history.ring) == [(0,), (1,), (1,), (1,)]
    assert history.shares(0, 3) == [0.25, 0.75, 0.0]
    assert RouteHistory(4).shares(0, 2) == [0, 0]
    with pytest.raises(ValueError, match="routing_window=0"):
        RouteHistory(0)


def test_history_is_in_the_state_dict_and_no_dtype_touches_it():
    history = RouteHistory(1000, blocks=2)
    taken = [(index, 2 * index) for index in range(600)]  # 257 and many beyond have no exact bfloat16
    for route in taken:
        history.append(route)
    state = history.bfloat16().half().state_dict()
    loaded = RouteHistory(1000, blocks=2)
    loaded.load_state_dict(state)
    assert list(loaded.ring) == taken
    shorter = RouteHistory(5, blocks=2)
    shorter.load_state_dict(state)
    assert list(shorter.ring) == taken[-5:]
    loaded.load_state_dict(RouteHistory(5, blocks=2).state_dict())
    assert list(loaded.ring) == []


def test_majority_is_of_joint_routes():
    generator = torch.Generator().manual_seed(1)
    taken = [tuple(route) for route in torch.randint(3, (500, 2), generator=generator).tolist()]
    history = RouteHistory(500, blocks=2)
    for route in taken:
        history.append(route)
    counts = Counter(taken)
    assert counts[history.majority()] == max(counts.values())
    assert history.shares(1, 3) == [sum(route[1] == index for route in taken) / 500 for index in range(3)]


def test_majority_of_ties_is_the_first_and_of_nothing_the_first_capsules():
    history = RouteHistory(9, blocks=2)
    assert history.majority() == (0, 0)
    for route in [(1, 0), (0, 2), (0, 2), (1, 0)]:
        history.append(route)
    assert history.majority() == (0, 2)


def test_a_block_with_one_capsule_left_has_taken_that_all_along():
    history = RouteHistory(4, blocks=2)
    for route in [(0, 2), (1, 1), (0, 1)]:
        history.append(route)
    history.reduce_to_one(1)
    assert list(history.ring) == [(0, 0), (1, 0), (0, 0)]
    for _ in range(4):
        history.append((2, 0))
    assert list(history.ring) == [(2, 0)] * 4  # the window is what it was
