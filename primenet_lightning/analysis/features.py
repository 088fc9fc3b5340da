"""Features that a trained network has of images, for a classifier on top of them."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, get_args

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.data import DataLoader

from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.datamodules.in_memory import ImageTensors
from primenet_lightning.datamodules.loader import BatchLoader
from primenet_lightning.datamodules.samplers import EpochBatchSampler, OrderedBatchSampler
from primenet_lightning.nn.layers import trial_run
from primenet_lightning.nn.prime.network import PrimeNetwork
from primenet_lightning.nn.prime.routes import EACH_SUREST
from primenet_lightning.nn.stages import Route
from primenet_lightning.training.evaluator import Evaluator

FeatureLayer = Literal["head", "routed", "capsules"]
"""Which features; see `feature_extractor`."""


class SplitFeatures(NamedTuple):
    """The features of one split, in the order of its images.

    Attributes:
        features: ``(images, features)``, float32, on the CPU.
        labels: Class indices, ``(images,)``, int64.
    """

    features: Tensor
    labels: Tensor


def feature_extractor(model: nn.Module, layer: FeatureLayer = "head") -> nn.Module:
    """Make a module from images to features. It shares the model's parameters, and its modes.

    Routing is that of inference, without labels. In a PrimeNet nothing is cut: the numbers are those of the network's
    own forward, but a gradient, where one is taken, goes all the way back to the images. It reaches of each block the
    capsules whose maps go on (of the last block under ``"capsules"`` all) and the projection, and of the head what
    stands before its last linear layer; it does not reach capsules off the route, local classifiers, gates, and that
    last layer.

    Args:
        model: A `PrimeNet`, a `PrimeNetwork`, or any network of images for ``"head"``.
        layer: ``"head"``: what the last linear layer sees, flattened. ``"routed"``: what the head sees, the routed map
            and the projection, averaged to 4x4 pixels. ``"capsules"``: the maps of all capsules of the last block,
            likewise, one after the other.

    Returns:
        A module from normalised images, ``(batch, channels, height, width)``, to ``(batch, features)``.

    Raises:
        ValueError: If the layer is unknown, the network has no such layer, or the head no linear layer.

    Example:
        >>> model = PrimeNet(image_size=(8, 8), channels=4, projection_channels=2, head_channels=6)
        >>> images = torch.zeros(3, 1, 8, 8)
        >>> [tuple(feature_extractor(model, layer)(images).shape) for layer in ("head", "routed", "capsules")]
        [(3, 24), (3, 96), (3, 192)]
    """
    if layer not in (known := get_args(FeatureLayer)):
        raise ValueError(f"layer={layer!r} is unknown; use one of {known}")
    network = model.network if isinstance(model, Evaluator) else model
    if isinstance(network, PrimeNetwork):
        if layer == "head":
            last_linear(network.head)
        return _PrimeFeatures(network, layer)
    if layer != "head":
        raise ValueError(f"layer={layer!r} is of a PrimeNet, and {type(model).__name__} is none; use 'head'")
    if not any(isinstance(part, nn.Linear) for part in network.modules()):
        raise ValueError(
            f"model is a {type(model).__name__} without a linear layer, before which its features would be; give a "
            "module from images to features to LinearProbe instead"
        )
    return _LastLayerFeatures(network)


class _LastLayerFeatures(nn.Module):
    """What the last linear layer of any network sees."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return _seen_by_last_linear(self.network, _in_precision(images, self.network))


class _PrimeFeatures(nn.Module):
    """Features of a PrimeNetwork under the route of inference, its graph whole."""

    def __init__(self, network: PrimeNetwork, layer: FeatureLayer) -> None:
        super().__init__()
        self.network, self.layer = network, layer

    def forward(self, images: Tensor) -> Tensor:
        network, x = self.network, _in_precision(images, self.network)
        # under "min_entropy" each image takes its own, and there is no route that holds for all
        if network.inference_routing == "min_entropy":
            route: Route = (EACH_SUREST,) * len(network.blocks)
        else:
            route = network.inference_route()
        last = network.prime_blocks[-1]
        for block, choice in zip(network.prime_blocks, route, strict=True):
            if self.layer == "capsules" and block is last:
                return torch.cat([pooled(capsule.features(x)) for capsule in block.in_order], dim=1)
            x = block.through(x, choice)
        return pooled(x) if self.layer == "routed" else _seen_by_last_linear(network.head, x)


def _in_precision(images: Tensor, network: nn.Module) -> Tensor:
    """Images in the precision of the network's parameters, as bfloat16 of one trained under ``bf16-true``."""
    like = next(network.parameters(), None)
    return images if like is None else images.to(like.dtype)


def _seen_by_last_linear(network: nn.Module, x: Tensor) -> Tensor:
    seen = list[Tensor]()
    hook = last_linear(network).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        network(x)
    finally:
        hook.remove()
    if not seen:
        raise ValueError(
            f"layer='head': {type(network).__name__} has a last linear layer that its forward does not run; give a "
            "module from images to features to LinearProbe instead"
        )
    return seen[-1].flatten(1)


def last_linear(head: nn.Module) -> nn.Linear:
    """Find the last linear layer, in the order in which parts were added.

    Args:
        head: A head, or a whole network.

    Returns:
        The layer.

    Raises:
        ValueError: If there is none.
    """
    layers = [part for part in head.modules() if isinstance(part, nn.Linear)]
    if not layers:
        raise ValueError(
            f"layer='head' needs a head with a linear layer, but {type(head).__name__} has none; use 'routed'"
        )
    return layers[-1]


def pooled(maps: Tensor) -> Tensor:
    """Average maps to 4x4 pixels and flatten them.

    Args:
        maps: ``(batch, channels, height, width)``.

    Returns:
        ``(batch, 16 * channels)``.

    Example:
        >>> pooled(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 48])
    """
    return adaptive_avg_pool2d(maps, 4).flatten(1)


def extract_features(
    extractor: nn.Module,
    data: ImageDataModule,
    device: torch.device | str = "cpu",
    batch_size: int = 500,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, SplitFeatures]:
    """Run all images through a network once, in evaluation mode and without augmentation.

    Args:
        extractor: From normalised images to features, as `feature_extractor` makes it. Its modes are left as they
            were; it stays on ``device``.
        data: Its files must be there; ``setup`` is called if need be.
        device: Where the images go through.
        batch_size: Images at a time.
        on_batch: Is told the number of images after each batch.

    Returns:
        ``"train"``, ``"validation"`` and ``"test"``, whole and in their order.

    Raises:
        ValueError: If ``batch_size`` is below 1.

    Example:
        >>> from primenet_lightning.datamodules import DigitsDataModule
        >>> splits = extract_features(torch.nn.Flatten(), DigitsDataModule())  # or feature_extractor(model)
        >>> splits["test"].features.shape, splits["test"].labels.shape
        (torch.Size([359, 64]), torch.Size([359]))
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is too small; give at least 1")
    data.setup()
    extractor.to(device)
    datasets = {"train": data.train_dataset, "validation": data.validation_dataset, "test": data.test_dataset}
    splits = {}
    with trial_run(extractor):
        for name, dataset in datasets.items():
            found: Tensor | None = None
            for rows in torch.split(torch.arange(len(dataset)), batch_size):
                images, _ = dataset[rows]
                part = extractor(data.normalize(images.to(device))).flatten(1)
                if found is None:  # filled in place: parts to be joined would take the memory twice
                    found = torch.empty(len(dataset), part.shape[1])
                found[rows[0] : rows[-1] + 1] = part
                if on_batch is not None:
                    on_batch(len(rows))
            assert found is not None
            splits[name] = SplitFeatures(found, dataset.all_labels())
    return splits


class FeatureDataModule(LightningDataModule):
    """Features in memory, a whole batch by one gather; each epoch's order depends on seed and epoch alone.

    Args:
        splits: ``"train"``, ``"validation"`` and ``"test"``, as `extract_features` gives them.
        batch_size: Images in a training batch over all devices.
        seed: Of the order.

    Raises:
        ValueError: If a split is missing, empty or not finite, or the splits disagree in the number of features;
            as soon as a loader is asked for, if ``batch_size`` is below 1.

    Example:
        >>> split = SplitFeatures(torch.randn(70, 5), torch.arange(70) % 2)
        >>> data = FeatureDataModule({"train": split, "validation": split, "test": split})
        >>> [len(labels) for _, labels in data.train_dataloader()]
        [32, 38]
    """

    def __init__(self, splits: Mapping[str, SplitFeatures], batch_size: int = 32, seed: int = 0) -> None:
        super().__init__()
        _check_splits(splits)
        self.splits, self.batch_size, self.seed = dict(splits), batch_size, seed

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """This rank's shares of the training batches, in an order of their own each epoch."""
        split, (size, rank) = self.splits["train"], self._ranks()
        sampler = EpochBatchSampler(len(split.labels), self.batch_size, seed=self.seed, num_replicas=size, rank=rank)
        return BatchLoader(ImageTensors(*split), sampler)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """This rank's shares of the validation batches, in order."""
        return self._eval_loader("validation")

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """This rank's shares of the test batches, in order."""
        return self._eval_loader("test")

    def _eval_loader(self, name: str) -> DataLoader[tuple[Tensor, Tensor]]:
        split, (size, rank) = self.splits[name], self._ranks()
        sampler = OrderedBatchSampler(len(split.labels), 1000 * size, num_replicas=size, rank=rank)
        return BatchLoader(ImageTensors(*split), sampler)

    def _ranks(self) -> tuple[int, int]:
        """Number of processes and which of them this is."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)


def _check_splits(splits: Mapping[str, SplitFeatures]) -> None:
    if missing := {"train", "validation", "test"} - splits.keys():
        raise ValueError(f"splits has no {sorted(missing)[0]!r}; give 'train', 'validation' and 'test'")
    width = splits["train"].features.shape[1:]
    for name, (features, labels) in splits.items():
        if features.dim() != 2 or features.shape[1:] != width or len(features) != len(labels) or not len(labels):
            raise ValueError(
                f"the {name} features have shape {tuple(features.shape)} for {len(labels)} labels; give "
                f"(images, {', '.join(map(str, width))}), one label each, of at least one image"
            )
        if not bool(features.isfinite().all()):
            raise ValueError(
                f"the {name} features are not finite: the network that they are of has diverged, or its images have "
                "NaN; probe another run"
            )
