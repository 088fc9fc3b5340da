"""Adam as the paper has it, in one call for all parameters where torch can."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from primenet_lightning.argument_types import CheckedArguments, refuse_types
from primenet_lightning.arguments import first_line


class PaperAdam(Adam, metaclass=CheckedArguments):
    """Adam with the paper's settings as defaults (sections 3.1 and 4.1).

    "Beta 0.99" is read as beta_1, the second positional argument of Adam in the authors' code.

    Args:
        params: As in every torch optimizer.
        lr: Learning rate; a number, or a scalar tensor.
        betas: Decay rates of the running means of gradient and squared gradient.
        fused: Update all parameters in one call, as torch can on CPU and CUDA; equal but for rounding. None does so
            where all parameters lie on one of these, whole, and no other way of updating is asked for.
        **kwargs: Of ``torch.optim.Adam``.

    Raises:
        ValueError: If torch cannot make an optimizer of them.

    Example:
        >>> optimizer = PaperAdam(torch.nn.Linear(4, 2).parameters())
        >>> optimizer.defaults["lr"], optimizer.defaults["betas"]
        (0.0002, (0.99, 0.999))
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-4,
        betas: tuple[float, float] = (0.99, 0.999),
        fused: bool | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_types(Adam, kwargs)  # of a class that is not ours, which is not looked at by itself
        try:
            super().__init__(params, lr=lr, betas=betas, fused=fused, **kwargs)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            options = {"lr": lr, "betas": betas, "fused": fused} | kwargs
            given = ", ".join(f"{name}={value!r}" for name, value in options.items())
            raise ValueError(f"{first_line(error)}; PaperAdam was given these params and {given}") from error
        undecided = fused is None and not (kwargs.get("foreach") or kwargs.get("differentiable"))
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        if undecided and all(map(_can_fuse, parameters)):
            for group in self.param_groups:
                group["fused"] = True
        self.register_step_pre_hook(lay_out)

    def _accelerator_graph_capture_health_check(self) -> None:
        """Torch's own, but for parameters on the CPU, which no graph can capture.

        Torch asks at each step whether there is a GPU. Where there is none, its answer is not kept: each time it looks
        for NVIDIA's library on the disk, 3 % of a step on the digits. Older versions call it by another name.
        """
        if any(parameter.device.type != "cpu" for group in self.param_groups for parameter in group["params"]):
            super()._accelerator_graph_capture_health_check()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copies and pickles lose their hooks."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if lay_out not in self._optimizer_step_pre_hooks.values():
            self.register_step_pre_hook(lay_out)


@torch.no_grad()
def lay_out(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Bring gradients and state into their parameter's layout: torch's fused update runs along memory, unseeing.

    Args:
        optimizer: About to step.
        args: Of its step; not looked at.
        kwargs: Likewise.
    """
    for group in optimizer.param_groups:
        if not group["fused"]:
            continue
        for parameter in group["params"]:
            if parameter.grad is not None and not _alike(parameter.grad, parameter):
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
            state = optimizer.state.get(parameter, {})
            for name, value in state.items():
                if name != "step" and not _alike(value, parameter):
                    state[name] = torch.empty_like(parameter).copy_(value)


def _can_fuse(tensor: Tensor) -> bool:
    return tensor.device.type in ("cpu", "cuda") and tensor.is_floating_point() and tensor.is_contiguous()


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape have their elements in the same order in memory."""
    return one.stride() == other.stride() or (one.is_contiguous() and other.is_contiguous())
