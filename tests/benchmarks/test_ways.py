"""What the memory benchmark compares computes the same, and its counter counts."""

import torch
import ways


def test_ways_that_are_compared_give_the_same_gradients():
    ways.check_gradients()


def test_what_can_be_counted_by_hand_is_counted():
    ways.check_counter("cpu")


def test_a_difference_of_one_bit_is_one():
    gradient = torch.tensor([1.0, 2.0])
    same = ways.same
    assert same(gradient, gradient.clone())
    assert same(None, None)
    assert not same(gradient, None)
    assert not same(gradient, gradient.nextafter(torch.tensor(3.0)))
