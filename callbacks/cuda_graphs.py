"""CUDA graphs: on a GPU the kernels of a step are launched together, each stage's as one."""

from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.training.learner import LocalLearner

VERSIONS = 4
"""How many versions torch may keep of each module: for two sizes of batches, in training and in evaluation."""


def room_for_versions(modules: int) -> AbstractContextManager[None]:
    """Have torch keep enough versions of so many modules; past its limit it would run them as written, unsaid.

    Torch takes the calls of all modules for one function, of which it keeps eight versions.

    Args:
        modules: That are compiled, each by itself.

    Returns:
        A context in which they are called.

    Example:
        >>> with room_for_versions(100):
        ...     torch._dynamo.config.cache_size_limit
        400
    """
    config: Any = torch._dynamo.config
    # by names that torch 2.6 knows, too; the second limit counts all versions that there ever were in this process
    limit = max(config.cache_size_limit, VERSIONS * modules)
    patched: AbstractContextManager[None] = config.patch(cache_size_limit=limit, accumulated_cache_size_limit=2**30)
    return patched


class CUDAGraphs(Callback):
    """Capture what each stage calls, forward and backward, as CUDA graphs.

    Small networks leave a GPU idle between two kernels, since the processor launches them one by one. A CUDA graph
    launches them together. The capture is that of ``torch.compile(mode="reduce-overhead")``: the first steps take
    minutes, in which kernels are compiled and captured; so does the first batch of another size, as an epoch's last.

    Training steps alone are captured. Validation and test run as written, because what a graph computes is overwritten
    when it runs again. Beside that, an `ImageDataModule` copies each training batch to the GPU while the one before it
    is learned, on a stream of its own. On a CPU, and on other devices than those of CUDA, nothing is done. Results
    change by rounding, since kernels are merged.

    **It has not been tried on a GPU yet.** Before you rely on it, let `python benchmarks/gpu.py --only
    check_cuda_graphs` compare twenty steps with and without.

    Attributes:
        compiled: The modules that are captured; empty outside of a fit, and where there is no GPU of CUDA.

    Raises:
        TypeError: If the model is not one of this package, whose stages are known.
        ValueError: If gradients accumulate over several batches: they lie in memory that the next batch overwrites.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[CUDAGraphs()], logger=False, enable_checkpointing=False)
    """

    def __init__(self) -> None:
        self.compiled: list[nn.Module] = []
        self._calls: list[Any] = []
        self._at_end = ExitStack()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compile, when the network is on its device.

        Args:
            trainer: Which knows the device.
            pl_module: Whose stages are captured.

        Raises:
            TypeError: If its stages are not known.
            ValueError: If gradients accumulate.
        """
        if not isinstance(pl_module, LocalLearner):
            raise TypeError(
                f"CUDAGraphs captures the stages of a model of this package, and {type(pl_module).__name__} is none; "
                'use torch.compile(model, mode="reduce-overhead")'
            )
        if pl_module.accumulate_grad_batches > 1:
            raise ValueError(
                f"accumulate_grad_batches={pl_module.accumulate_grad_batches} does not go with CUDAGraphs: each batch "
                "overwrites the memory of graphs, where the gradients lie; use 1, or leave the callback out"
            )
        if trainer.strategy.root_device.type != "cuda":
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, ImageDataModule):
            self._at_end.callback(setattr, data, "copies_ahead", data.copies_ahead)
            data.copies_ahead = True  # its loaders are not made yet
        modules = pl_module.network.called_modules()
        self._at_end.enter_context(room_for_versions(len(modules)))
        for module in modules:
            module.compile(mode="reduce-overhead", dynamic=False)
            self.compiled.append(module)
            self._calls.append(module._compiled_call_impl)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Let go of what the graphs computed in the step before."""
        if self.compiled:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run as written."""
        self._call_as_written()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the graphs."""
        for module, call in zip(self.compiled, self._calls, strict=True):
            module._compiled_call_impl = call

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the network as it was before the fit."""
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave it so after an error, too."""
        self._let_go()

    def _let_go(self) -> None:
        self._call_as_written()
        self.compiled, self._calls = [], []
        self._at_end.close()

    def _call_as_written(self) -> None:
        for module in self.compiled:
            module._compiled_call_impl = None
