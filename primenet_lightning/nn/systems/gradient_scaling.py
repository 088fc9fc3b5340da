"""Scaling gradients on their way back."""

from typing import Any

import torch
from torch import Tensor


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Hand on a tensor as it is, and its gradient times a factor.

    Args:
        x: Of any shape.
        factor: Of the gradient.

    Returns:
        The same numbers, of the same shape; the tensor itself where no gradient will come, or the factor is 1.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> (3 * scale_gradient(x, 0.5)).sum().backward()
        >>> x.grad
        tensor([1.5000, 1.5000])
    """
    if factor == 1 or not (torch.is_grad_enabled() and x.requires_grad):
        return x
    scaled: Tensor = _Scaled.apply(x, factor)
    return scaled
