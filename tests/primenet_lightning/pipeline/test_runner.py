"""Stages that learn at the same time in several processes, against one process."""

import pytest
import rowed
import torch

ROWS = {
    "two": ("convolutional", [0, 2]),
    "three": ("convolutional", [0, 1, 3]),
    "four": ("convolutional", [0, 1, 2, 3]),
    "four, pruned": ("prime", [0, 1, 2, 3]),
}


@pytest.mark.parametrize(("name", "begins"), list(ROWS.values()), ids=list(ROWS))
def test_a_row_of_processes_learns_what_one_does_to_the_last_bit(four_ranks, name, begins):
    records, state = rowed.alone(name)
    results = four_ranks(rowed.in_a_row, name, begins)[: len(begins)]
    last_records, _ = results[0]
    assert last_records == records
    together = {}
    for _, own in results[::-1]:
        together |= own
    assert together.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(together[key], value), key
    for _, own in results:  # routes and what routers remember are known to all
        for key, value in own.items():
            assert torch.equal(value, state[key]), key
