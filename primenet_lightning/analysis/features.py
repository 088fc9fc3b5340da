"""Features that a trained network has of images, for a classifier on top of them."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.data import TensorDataset

from primenet_lightning.analysis.passes import in_batches
from primenet_lightning.analysis.views import view_capsules
from primenet_lightning.arguments import at_least
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.datamodules.features import SplitFeatures
from primenet_lightning.models.backbones import last_layer
from primenet_lightning.models.prime import PrimeNet
from primenet_lightning.nn.cutting.network import CutNetwork, UncutNetwork
from primenet_lightning.nn.layers import trial_run
from primenet_lightning.nn.names import HEAD
from primenet_lightning.nn.prime.network import PrimeNetwork
from primenet_lightning.nn.prime.routes import EACH_SUREST
from primenet_lightning.nn.stages import Route
from primenet_lightning.training.evaluator import Evaluator

FeatureLayer = Literal["head", "routed", "capsules"]
"""Which features; see `feature_extractor`."""

BATCH = 250
"""Images of a sample that go through the network at a time."""


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
    layers = get_args(FeatureLayer)
    if layer not in layers:
        raise ValueError(f"layer={layer!r} is unknown; use one of {layers}")
    network = model
    if isinstance(model, Evaluator):
        network = model.network
    if isinstance(network, PrimeNetwork):
        if layer == "head":
            last_linear(network.head)
        return _PrimeFeatures(network, layer)
    if layer != "head":
        raise ValueError(f"layer={layer!r} is of a PrimeNet, and {type(model).__name__} is none; use 'head'")
    network = uncut(network)
    if not any(isinstance(part, nn.Linear) for part in network.modules()):
        raise ValueError(
            f"model is a {type(model).__name__} without a linear layer, before which its features would be; give a "
            "module from images to features to LinearProbe instead"
        )
    return _LastLayerFeatures(network)


def uncut(network: nn.Module) -> nn.Module:
    """Give the model that a network was cut from, without local classifiers.

    Args:
        network: Any network.

    Returns:
        The model; of a network that is no `CutNetwork`, the network.
    """
    if isinstance(network, CutNetwork | UncutNetwork):
        return network.backbone
    return network


class _LastLayerFeatures(nn.Module):
    """What the last linear layer of any network sees."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features, _ = before_last_linear(self.network, _in_precision(images, self.network))
        return features


class _PrimeFeatures(nn.Module):
    """Features of a PrimeNetwork under the route of inference, its graph whole."""

    def __init__(self, network: PrimeNetwork, layer: FeatureLayer) -> None:
        super().__init__()
        self.network, self.layer = network, layer

    def forward(self, images: Tensor) -> Tensor:
        network = self.network
        x = _in_precision(images, network)
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
        if self.layer == "routed":
            return pooled(x)
        features, _ = before_last_linear(network.head, x)
        return features


def _in_precision(images: Tensor, network: nn.Module) -> Tensor:
    """Images in the precision of the network's parameters, as bfloat16 of one trained under ``bf16-true``."""
    like = next(network.parameters(), None)
    return images if like is None else images.to(like.dtype)


def before_last_linear(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run a network, and catch what its last linear layer sees.

    Args:
        network: A head, or a whole network.
        x: Its input, ``(batch, channels, height, width)``.

    Returns:
        What the layer sees, ``(batch, features)``, and the network's output.

    Raises:
        ValueError: If there is no linear layer, or the network does not run it.

    Example:
        >>> layers = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> features, logits = before_last_linear(layers, torch.zeros(2, 1, 2, 2))
        >>> features.shape, logits.shape
        (torch.Size([2, 4]), torch.Size([2, 3]))
    """
    features, output = _input_of(last_linear(network), network, x)
    return features.flatten(1), output


def before_last_layer(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run a whole network, and catch what the layer that gives its logits sees.

    Args:
        network: From images to logits.
        x: Images, ``(batch, channels, height, width)``.

    Returns:
        What the layer sees, ``(batch, features)``, of a convolution averaged over all pixels; and the logits.

    Raises:
        ValueError: If the network has no dense layer and no convolution, or does not run it.

    Example:
        >>> model = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> features, logits = before_last_layer(model, torch.zeros(2, 3, 4, 4))
        >>> features.shape, logits.shape
        (torch.Size([2, 3]), torch.Size([2, 10]))
    """
    name = last_layer(network)
    if not name:
        raise ValueError(f"layer='head' needs a dense layer or a convolution, but {type(network).__name__} has none")
    features, output = _input_of(network.get_submodule(name), network, x)
    if features.dim() == 4:
        features = features.mean((2, 3))
    return features.flatten(1), output


def _input_of(layer: nn.Module, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer sees, and the network's output."""
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda layer, args: inputs.append(args[0]))
    try:
        output = network(x)
    finally:
        hook.remove()
    if not inputs:
        raise ValueError(
            f"layer='head': {type(network).__name__} has a last linear layer that its forward does not run; give a "
            "module from images to features to LinearProbe instead"
        )
    return inputs[-1], output


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
    at_least(1, batch_size=batch_size)
    data.setup()
    extractor.to(device)
    datasets = {"train": data.train_dataset, "validation": data.validation_dataset, "test": data.test_dataset}
    splits: dict[str, SplitFeatures] = {}
    with trial_run(extractor):
        for name, dataset in datasets.items():
            # filled in place: parts to be joined would take the memory twice
            features = torch.empty(0)
            done = 0
            for images, _ in in_batches(dataset, batch_size):
                part = extractor(data.normalize(images.to(device))).flatten(1)
                if not done:
                    features = torch.empty(len(dataset), part.shape[1])
                features[done : done + len(part)] = part
                done += len(part)
                if on_batch is not None:
                    on_batch(len(part))
            splits[name] = SplitFeatures(features, dataset.all_labels())
    return splits


def compute_features(
    model: Evaluator, images: Tensor, labels: Tensor, layer: FeatureLayer
) -> tuple[dict[str, Tensor], Tensor]:
    """Run a sample through the network, 250 images at a time, in the modes that its parts are in.

    Args:
        model: In evaluation mode; a `PrimeNet`, or of any other the layer ``"head"``.
        images: ``(images, channels, height, width)``, normalised, on the CPU.
        labels: Class indices, ``(images,)``.
        layer: As in `feature_extractor`; ``"capsules"``: of all blocks, each capsule's map by itself.

    Returns:
        Features by name (the layer's, or each capsule's), ``(images, features)``, float32 on the CPU; and the classes
        that the head says, ``(images,)``, int64.

    Raises:
        ValueError: If the layer is ``"head"`` and the head has no linear layer, or if it is another and the model no
            `PrimeNet`.
    """
    if layer != "head" and not isinstance(model, PrimeNet):
        raise ValueError(f"layer={layer!r} is of a PrimeNet, and {type(model).__name__} is none; use 'head'")
    parts: dict[str, list[Tensor]] = {}
    predictions: list[Tensor] = []
    for some, targets in in_batches(TensorDataset(images, labels), BATCH):
        if layer == "capsules" and isinstance(model, PrimeNet):
            view = view_capsules(model, some, targets)
            features = {name: pooled(maps) for name, maps in view.maps.items()}
            logits = view.logits[HEAD]
        else:
            features_of_layer, logits = _head_features(model, some, layer)
            features = {layer: features_of_layer}
        for name, value in features.items():
            parts.setdefault(name, []).append(value)
        predictions.append(logits.argmax(1).cpu())
    return {name: torch.cat(values) for name, values in parts.items()}, torch.cat(predictions)


def _head_features(model: Evaluator, images: Tensor, layer: FeatureLayer) -> tuple[Tensor, Tensor]:
    """What the head sees, or its last linear layer; and the logits."""
    images = model.images_of(images.to(model.device))
    if not isinstance(model, PrimeNet):
        features, logits = before_last_layer(uncut(model.network), images)
        return features.float().cpu(), logits
    head = model.network.head
    routed = model.network.features(images)
    if layer == "routed":
        return pooled(routed.float().cpu()), head(routed)
    features, logits = before_last_linear(head, routed)
    return features.float().cpu(), logits
