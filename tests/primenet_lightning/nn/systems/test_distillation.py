"""Distillation against its closed form."""

import pytest
import torch
from formulas import double

from primenet_lightning.nn.systems.distillation import distillation


def test_gradient_of_the_student_and_none_for_the_teacher():
    student, teacher = double(5, 4).requires_grad_(), double(5, 4).requires_grad_()
    distillation(student, teacher, 3.0).backward()
    closed = 3.0 * ((student / 3).softmax(1) - (teacher / 3).softmax(1)) / 5
    torch.testing.assert_close(student.grad, closed, rtol=0, atol=1e-15)
    assert teacher.grad is None


def test_value_by_a_loop():
    student, teacher = double(5, 4), double(5, 4)
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = (t / 2).softmax(0), (s / 2).softmax(0)
        total += sum(p[c] * (p[c].log() - q[c].log()) for c in range(4))
    torch.testing.assert_close(distillation(student, teacher, 2.0), 4 * total / 5)
    assert distillation(student, student, 2.0).item() == pytest.approx(0, abs=1e-15)


def test_half_precision_is_widened():
    loss = distillation(torch.randn(2, 3).bfloat16(), torch.randn(2, 3).bfloat16())
    assert loss.dtype == torch.float32


def test_impossible_temperatures_are_refused():
    for temperature in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"temperature={temperature} must be above 0"):
            distillation(torch.zeros(1, 2), torch.zeros(1, 2), temperature)
