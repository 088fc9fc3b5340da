"""Distillation against its formula and its gradient in closed form."""

import math

import pytest
import torch

from primenet_lightning.nn.systems.distillation import distillation, rise


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_value_and_gradient_in_closed_form(temperature):
    torch.manual_seed(0)
    student = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    loss = distillation(student, teacher, temperature)
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    assert loss.item() == pytest.approx(temperature**2 * (p * (p / q).log()).sum().item() / 5, abs=1e-12)
    loss.backward()
    torch.testing.assert_close(student.grad, temperature * (q - p).detach() / 5, rtol=0, atol=1e-15)
    assert teacher.grad is None


def test_equal_answers_cost_nothing_and_large_ones_are_numbers():
    logits = torch.tensor([[1e4, 0.0, -1e4]])
    assert distillation(logits, logits, 3.0) == 0
    assert distillation(-logits, logits, 3.0).isfinite()
    assert distillation(logits.bfloat16(), logits.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan])
def test_a_temperature_is_positive(temperature):
    with pytest.raises(ValueError, match="must be above 0; 1 leaves the answers"):
        distillation(torch.zeros(1, 2), torch.zeros(1, 2), temperature)


def test_the_rise():
    assert [rise(epoch, 80) for epoch in (0, 20, 40, 60, 80, 300)] == pytest.approx(
        [0.0067, 0.0601, 0.2865, 0.7316, 1, 1], abs=5e-5
    )
    assert rise(0, 0) == 1
