"""Soft filter pruning: a callback on any model, and what the pruned network costs."""

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import at_least
from primenet_lightning.baselines.condensenet.layers import LearnedGroupConvolution
from primenet_lightning.callbacks.averaging import AveragedWeights
from primenet_lightning.nn.layers import trial_run


class SoftFilterPruning(Callback, metaclass=CheckedArguments):
    r"""Set the smallest filters to zero after each epoch, and let them grow back in the next (SFP).

    He, Kang, Dong, Fu and Yang, "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks", IJCAI 2018:
    of each convolution with :math:`N` filters, the :math:`\lfloor P N \rfloor` of least norm
    :math:`\lVert F_j \rVert_p` become zero (their algorithm 1). All go on learning, with the optimizer's momentum as
    it was, so that a filter which still matters comes back. As in the authors' code, biases and batch norms stay: the
    map of a pruned filter is a constant, which whoever takes the filter out for good has to add to the next layer.

    Filters are pruned before the validation that ends an epoch, so that this validation, and the checkpoints after
    it, have them pruned; validations in the middle of an epoch see the weights as they are trained. The last epoch
    always prunes, so that a fit that ends after ``max_epochs`` leaves a pruned network.

    Args:
        rate: Share of filters, :math:`P`, in [0, 1).
        every_n_epochs: Epochs from one pruning to the next.
        norm: Order of the norm, :math:`p`; the paper's is 2.
        skip: Names of convolutions that are left alone, as patterns such as ``"network.stem.*"``; all others with more
            than one filter are pruned. For ResNets the paper spares projection shortcuts, in torchvision's
            ``"*downsample*"``.

    Attributes:
        masks: By name of the convolution, which filters were zero after the last pruning, ``(filters,)``, bool; on the
            CPU.

    Raises:
        ValueError: If an argument is out of its range; in a fit, if a pattern names no convolution.

    Example:
        >>> SoftFilterPruning(rate=0.3).masks
        {}
    """

    needs_whole_network: ClassVar[bool] = True
    """A pipeline, whose processes have parts of it, refuses it."""

    def __init__(self, rate: float, every_n_epochs: int = 1, norm: float = 2, skip: Sequence[str] = ()) -> None:
        _check_rate(rate, norm)
        at_least(1, every_n_epochs=every_n_epochs)
        self.rate = rate
        self.every_n_epochs = every_n_epochs
        self.norm = norm
        self.skip = tuple(skip)
        self.masks: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what would prune nothing, or would be undone.

        Args:
            trainer: Whose other callbacks are looked at.
            pl_module: Whose convolutions are.
            stage: Lightning's; nothing is refused but in ``"fit"``.

        Raises:
            ValueError: If a pattern names no convolution, if the model condenses its convolutions itself, or if
                `AveragedWeights` is there, too.
        """
        if stage != "fit":
            return
        convolutions(pl_module, self.skip)
        learned = [layer for layer in pl_module.modules() if isinstance(layer, LearnedGroupConvolution)]
        if any(layer.condensation > 1 for layer in learned):
            raise ValueError(
                f"{type(pl_module).__name__} takes channels out of its convolutions by itself, by what their groups "
                "need; leave SoftFilterPruning out"
            )
        if any(isinstance(callback, AveragedWeights) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError(
                "AveragedWeights puts its average in place of the weights that SoftFilterPruning has pruned; use one "
                "of the two"
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune before the validation that ends an epoch."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.is_last_batch:
            self._prune_if_due(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune where no validation ended the epoch; what is pruned already stays as it is."""
        self._prune_if_due(trainer, pl_module)

    def _prune_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = trainer.current_epoch + 1
        if done % self.every_n_epochs == 0 or done == trainer.max_epochs:
            self.masks = prune_filters(pl_module, self.rate, self.norm, self.skip)

    @property
    def pruned(self) -> dict[str, list[int]]:
        """Indices of the filters that were zero after the last pruning, by name of the convolution."""
        return {name: mask.nonzero().flatten().tolist() for name, mask in self.masks.items()}

    def state_dict(self) -> dict[str, Any]:
        """The masks."""
        return {"masks": dict(self.masks)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the masks of the run that is resumed."""
        self.masks = dict(state_dict["masks"])


def convolutions(model: nn.Module, skip: Iterable[str] = ()) -> dict[str, nn.Conv2d]:
    """Find the convolutions that are pruned.

    Args:
        model: Any module.
        skip: Patterns of names to leave out.

    Returns:
        Convolutions of more than one filter, by name.

    Raises:
        ValueError: If a pattern names no convolution.
    """
    layers: dict[str, nn.Conv2d] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            layers[name] = layer
    for pattern in skip:
        skipped = fnmatch.filter(layers, pattern)
        if not skipped:
            raise ValueError(f"skip={pattern!r} names no convolution that is left; there are {', '.join(layers)}")
        for name in skipped:
            del layers[name]
    return {name: layer for name, layer in layers.items() if layer.out_channels > 1}


@torch.no_grad()
def prune_filters(model: nn.Module, rate: float, norm: float = 2, skip: Iterable[str] = ()) -> dict[str, Tensor]:
    """Set the filters of least norm to zero, layer by layer; arguments as in `SoftFilterPruning`.

    Args:
        model: Any module; changed in place.
        rate: Share of filters.
        norm: Order of the norm.
        skip: Patterns of names to leave out.

    Returns:
        By name of the convolution, which filters were chosen, ``(filters,)``, bool, on the CPU.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> layer = nn.Conv2d(1, 4, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([3.0, -1.0, 2.0, -4.0]).view(4, 1, 1, 1))
        >>> prune_filters(nn.Sequential(layer), rate=0.5)
        {'0': tensor([False,  True,  True, False])}
        >>> layer.weight.flatten().tolist()
        [3.0, 0.0, 0.0, -4.0]
    """
    masks = _masks(model, rate, norm, skip)
    for name, mask in masks.items():
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        weight[mask.to(weight.device)] = 0
    return masks


@torch.no_grad()
def _masks(model: nn.Module, rate: float, norm: float, skip: Iterable[str]) -> dict[str, Tensor]:
    _check_rate(rate, norm)
    masks = {}
    for name, layer in convolutions(model, skip).items():
        norms = torch.linalg.vector_norm(layer.weight.flatten(1).float(), norm, dim=1).cpu()
        # 0.07 * 100 is 7.000000000000001, and 0.29 * 100 is 28.999999999999996
        count = math.floor(rate * len(norms) + 1e-9)
        masks[name] = torch.zeros(len(norms), dtype=torch.bool)
        masks[name][norms.argsort(stable=True)[:count]] = True
    return masks


def _check_rate(rate: float, norm: float) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"rate={rate} is out of range; give a share of at least 0 and less than 1, such as 0.3")
    if not norm > 0:
        raise ValueError(f"norm={norm} is no order of a norm; give a positive number, such as the paper's 2")


def pruned_multiply_adds(
    model: nn.Module, in_shape: tuple[int, int, int], pruned: float | Mapping[str, Tensor], skip: Iterable[str] = ()
) -> int:
    """Count the multiply-adds of one image after pruned filters were taken out for good.

    Channels that are zero for every image are followed through the network: a layer saves its own filters that are
    zero, and the inputs that come from such filters alone. Where a shortcut is added to a pruned map, the sum's
    channel is only gone if it is in both. That saves less than the convention by which a rate P leaves (1 - P)^2 of
    each convolution, and is what can be taken out with the answers unchanged: a constant left by a batch norm or a bias
    counts as zero here, since it can be added to the biases that follow (at the border of a padded map, where the
    padding is zero and the constant is not, this is approximate).

    The convention of `primenet_lightning.analysis.cost.count_cost` holds: a multiplication and its addition are one;
    convolutions and dense layers count, layer by layer, norms, activations and poolings do not.

    Args:
        model: Any module of convolutions, dense layers, batch norms, and layers that keep zeros zero, such as ReLU;
            it is called with one image, and left as it was. Others, such as a sigmoid, make the count too large.
        in_shape: Channels, height and width of the images.
        pruned: `SoftFilterPruning.masks` of this very module, ``(filters,)`` each, or a rate, for the filters that
            would now be pruned.
        skip: Where a rate is given, patterns of names to leave out.

    Returns:
        Multiply-adds.

    Raises:
        ValueError: If a mask fits no convolution, or there are norms other than batch norm.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 1))
        >>> pruned_multiply_adds(net, (1, 5, 5), 0.0), pruned_multiply_adds(net, (1, 5, 5), 0.5)
        (540, 216)
    """
    masks = pruned if isinstance(pruned, Mapping) else _masks(model, pruned, 2, skip)
    values = _positive(model)
    for name, mask in masks.items():
        weight = values.get(f"{name}.weight")
        if weight is None or weight.dim() != 4 or mask.shape != weight.shape[:1]:
            raise ValueError(f"pruned has a mask of {len(mask)} filters for {name!r}, which fits no convolution there")
        weight[mask.to(weight.device)] = 0
    like = next(iter(values.values()))
    image = torch.ones(1, *in_shape, dtype=like.dtype, device=like.device)
    counts: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counts.append(_multiply_adds(layer, inputs, output))

    with ExitStack() as hooks, trial_run(model):
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                hooks.callback(layer.register_forward_hook(count).remove)
        torch.func.functional_call(model, values, image)
    return sum(counts)


def _positive(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and statistics under which a value is zero only where nothing but zeros comes in."""
    norms = (nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
    for name, module in model.named_modules():
        if isinstance(module, norms):
            raise ValueError(
                f"{name} is a {type(module).__name__}, through which zeros cannot be followed; use batch norms"
            )
    generator = torch.Generator().manual_seed(0)
    values: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        # random, so that nothing cancels; small, so that nothing overflows
        random = (torch.rand(weight.shape, generator=generator) + 0.5) * weight.shape[:1].numel() / weight.numel()
        values[name] = random.to(weight)
        if name.endswith("bias"):
            values[name] = torch.zeros_like(weight)
    for name, statistic in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            values[name] = torch.full_like(statistic, float(name.endswith("running_var")))
    return values


def _multiply_adds(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    """What is left of one layer, of what comes in and what goes out."""
    if isinstance(layer, nn.Conv2d):
        channels_in = inputs[0].ne(0).any(dim=(0, 2, 3)).view(layer.groups, -1).sum(1)
        channels_out = output.ne(0).any(dim=(0, 2, 3)).view(layer.groups, -1).sum(1)
        area = output.shape[2] * output.shape[3] * layer.kernel_size[0] * layer.kernel_size[1]
        return int((channels_in * channels_out).sum()) * area
    rows = output.numel() // output.shape[-1]
    return _features_in_use(inputs[0]) * _features_in_use(output) * rows


def _features_in_use(x: Tensor) -> int:
    """How many features are anything but zero in any row."""
    return int(x.reshape(-1, x.shape[-1]).ne(0).any(0).sum())
