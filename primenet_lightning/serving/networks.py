"""The network as it predicts, from pixels: what is exported, and nothing else."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from primenet_lightning.baselines.dynamic import DynamicLearner
from primenet_lightning.baselines.msdnet.budgeted import BudgetedExits
from primenet_lightning.baselines.multi_exit import MultiExit
from primenet_lightning.models.pretrained import Pretrained
from primenet_lightning.nn.exits.network import ExitNetwork, answers
from primenet_lightning.nn.exits.thresholds import check_thresholds, confidences
from primenet_lightning.nn.fast import can_fold, fold, is_plain
from primenet_lightning.nn.predicting import predicting
from primenet_lightning.nn.prime.capsules import ConvFeatures
from primenet_lightning.nn.prime.mixing import Gate
from primenet_lightning.training.learner import LocalLearner


class FromPixels(nn.Module):
    """A network that takes pixels: the normalisation is inside.

    Args:
        network: From normalised images to logits.
        mean: A number a channel, with pixels measured from 0 to 1.
        std: Likewise.
        probabilities: Whether a softmax ends it.

    Example:
        >>> network = FromPixels(nn.Flatten(), mean=[0.5], std=[0.5])
        >>> network(torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2))
        tensor([[-1.,  1.]])
    """

    offset: Tensor
    scale: Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float], std: Sequence[float], probabilities: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.probabilities = probabilities
        self.dtype = next((parameter.dtype for parameter in network.parameters()), torch.float32)
        # computed in float64, as `Normalize` does
        offset = 255 * torch.tensor(list(mean), dtype=torch.float64)
        scale = 1 / (255 * torch.tensor(list(std), dtype=torch.float64))
        self.register_buffer("offset", offset.float().reshape(1, -1, 1, 1))
        self.register_buffer("scale", scale.float().reshape(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Classify pixels.

        Args:
            pixels: From 0 to 255, uint8 ``(batch, channels, height, width)``.

        Returns:
            Logits, or probabilities, float32 ``(batch, classes)``.
        """
        logits: Tensor = self.network(self.normalised(pixels)).float()
        return logits.softmax(1) if self.probabilities else logits

    def normalised(self, pixels: Tensor) -> Tensor:
        """Normalise pixels as in training.

        Args:
            pixels: From 0 to 255, uint8 ``(batch, channels, height, width)``.

        Returns:
            The same, ``(batch, channels, height, width)``, in the type of the network's weights.
        """
        return ((pixels.to(torch.float32) - self.offset) * self.scale).to(self.dtype)


class ByThresholds(nn.Module):
    """A network of several exits as one graph: all are computed, and each image takes the answer of its own.

    Args:
        network: With several exits.
        thresholds: One an exit.
    """

    def __init__(self, network: ExitNetwork, thresholds: Sequence[float]) -> None:
        super().__init__()
        check_thresholds(thresholds, network.num_exits)
        self.network = network
        self.thresholds = list(thresholds)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: Normalised, ``(batch, channels, height, width)``.

        Returns:
            Logits, ``(batch, classes)``.
        """
        given = list(answers(self.network, x))
        taken = given[-1]
        for logits, threshold in zip(given[-2::-1], self.thresholds[-2::-1], strict=True):
            leaves = confidences(logits).double() >= threshold
            taken = torch.where(leaves[:, None], logits, taken)
        return taken


def final(model: LocalLearner) -> LocalLearner:
    """Give the model that is left when training is over.

    Args:
        model: A trained one.

    Returns:
        As `Pretrained.final_model`.

    Raises:
        ValueError: If it has not learned long enough.
    """
    return model.final_model() if isinstance(model, Pretrained) else model


def predicting_module(model: LocalLearner) -> nn.Module:
    """Copy what predicts, as a module without data-dependent Python.

    Args:
        model: A trained one.

    Returns:
        From normalised images to logits, in evaluation mode, on the CPU.

    Raises:
        ValueError: If what is computed depends on the images in a way that no graph can have.
    """
    refuse_untraceable(model)
    model = final(model)
    if isinstance(model, MultiExit):
        exits: ExitNetwork = copy.deepcopy(model.network.model)  # type: ignore[assignment]
        module: nn.Module = ByThresholds(exits, [model.threshold] * exits.num_exits)
    elif isinstance(model, BudgetedExits) and model.thresholds is not None:
        module = ByThresholds(copy.deepcopy(model.network.exits), model.thresholds)
    else:
        module = predicting(model.network)
    return fold_convolutions(module.cpu().eval())


def refuse_untraceable(model: LocalLearner) -> None:
    """Refuse what no graph can have.

    Args:
        model: A trained one.

    Raises:
        ValueError: If it takes its decisions image by image in Python, or for a batch as a whole.
    """
    if isinstance(model, DynamicLearner):
        raise ValueError(
            f"a {type(model).__name__} decides image by image what it computes, which no exported graph can; predict "
            "with its checkpoint: primenet predict --ckpt"
        )
    for name, module in model.network.named_modules():
        if isinstance(module, Gate) and module.per == "batch":
            raise ValueError(
                f"{name} is a gate with per='batch', which chooses a capsule by the whole batch, and no exported graph "
                "can; train with router_options={'per': 'sample'}, or predict with the checkpoint"
            )


def fold_convolutions(module: nn.Module) -> nn.Module:
    """Make one convolution of each pair that `ConvFeatures` runs as one: less to store, and nothing to compute anew.

    Args:
        module: Changed in place.

    Returns:
        The module.
    """
    for features in module.modules():
        if not (isinstance(features, ConvFeatures) and features.folds):
            continue
        reduce, spatial = features[0], features[1]
        if not (is_plain(reduce, nn.Conv2d) and is_plain(spatial, nn.Conv2d) and can_fold(reduce, spatial)):
            continue
        together = copy.deepcopy(spatial)
        together.in_channels = reduce.in_channels
        together.weight = nn.Parameter(fold(reduce, spatial).detach())
        features[0], features[1] = nn.Identity(), together
        features.folds = False
    return module
