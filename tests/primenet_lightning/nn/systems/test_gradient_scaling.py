"""Numbers as they are, gradients times a factor."""

import torch

from primenet_lightning.nn.systems.gradient_scaling import scale_gradient


def test_forward_is_the_identity_bit_for_bit_and_backward_scales():
    x = torch.randn(3, 4, requires_grad=True)
    weights = torch.randn(3, 4)
    y = scale_gradient(x, 1 / 3)
    assert torch.equal(y, x)
    (y * weights).sum().backward()
    assert torch.equal(x.grad, weights * (1 / 3))


def test_it_costs_nothing_where_no_gradient_comes():
    x = torch.randn(3, requires_grad=True)
    with torch.no_grad():
        assert scale_gradient(x, 0.5) is x
    assert scale_gradient(x.detach(), 0.5).grad_fn is None
    assert scale_gradient(x, 1) is x


def test_second_derivatives_pass():
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad((scale_gradient(x, 0.5) ** 3).sum(), x, create_graph=True)
    torch.testing.assert_close(gradient, 1.5 * x**2)
