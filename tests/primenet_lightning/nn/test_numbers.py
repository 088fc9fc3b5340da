"""Losses on the host."""

import math

import pytest
import torch

from primenet_lightning.nn.numbers import WHOLE, NonFiniteError, on_host


class Half:
    """Half of a batch, whose other half has losses twice as large."""

    weight = 0.5

    def mean(self, values):
        return 0.5 * values + 0.5 * (2 * values)

    def any(self, flags):
        return [True for _ in flags]


def test_losses_become_numbers_by_name_and_keep_no_graph():
    losses = {"k3": torch.tensor(0.5, requires_grad=True), "head": torch.tensor(2.0)}
    assert on_host(losses) == {"k3": 0.5, "head": 2.0}
    assert on_host(losses, Half()) == {"k3": 0.75, "head": 3.0}


def test_the_whole_batch_is_its_own_mean():
    values = torch.tensor([1.0, 2.0])
    assert WHOLE.weight == 1
    assert WHOLE.mean(values) is values
    assert WHOLE.any([True, False]) == [True, False]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_that_is_no_number_is_named(value):
    losses = {"block0.k3": torch.tensor(1.0), "block0.k5": torch.tensor(value), "head": torch.tensor(math.nan)}
    with pytest.raises(NonFiniteError, match=rf"the loss of block0\.k5 is {value}: lower its learning rate") as error:
        on_host(losses)
    assert error.value.name == "block0.k5"


def test_the_sentence_has_step_and_rate_where_they_are_known():
    told = str(NonFiniteError("head", None, step=3, learning_rate=0.5))
    assert told.startswith("a parameter of head is not finite at step 3, learning rate 0.5: ")
