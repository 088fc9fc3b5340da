"""Backbones by name: residual networks for small images, models of torchvision, and of timm where it is installed."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from primenet_lightning.arguments import first_line
from primenet_lightning.nn.resnets import SmallImageResNet
from primenet_lightning.nn.small_images import convnext, densenet_bc, vit_tiny, whitened
from primenet_lightning.training.checkpoint_files import read_checkpoint

Pretrained = bool | str
"""Whether a model begins with the weights that its library has for it; or a file of weights."""


def build_backbone(
    name: str,
    in_shape: tuple[int, int, int],
    num_classes: int,
    pretrained: Pretrained = False,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a model by name, for these images and classes.

    Models for one image size only, such as vision transformers, are built for that of the images. Where images have
    other than three channels, or weights are of other classes, the first convolution and the last layer are replaced.

    Args:
        name: ``"resnet20"``, ``"resnet32"``, ``"resnet44"``, ``"resnet56"`` or ``"resnet110"``, see `SmallImageResNet`;
            ``"densenet_bc"``, ``"vit_tiny"``, ``"convnext"`` or ``"whitened"``, see
            `primenet_lightning.nn.small_images`; or of a model of torchvision, or else of timm; ``"torchvision/..."``
            or ``"timm/..."`` says which.
        in_shape: Channels, height and width of the images.
        num_classes: Number of classes.
        pretrained: Whether it begins with the library's weights, which are downloaded once; or a file with a
            ``state_dict`` of the model, or with a checkpoint of a `CutNet` of it.
        options: Further arguments of the model's builder.

    Returns:
        The model.

    Raises:
        ValueError: If there is no such model, if it cannot be built so, or if a file's weights are another model's.

    Example:
        >>> model = build_backbone("resnet18", (1, 32, 32), num_classes=5)
        >>> model.conv1.in_channels, model.fc.out_features
        (1, 5)
    """
    builder = _builder_of(name)
    given = dict(options or {})
    try:
        model = builder(in_shape, num_classes, pretrained is True, given)
    except OSError as error:  # no network, or no room for a download
        raise ValueError(
            f"pretrained=True needs the weights of {name!r}, which cannot be had ({first_line(error)}); use "
            "pretrained=False, or give a file of weights"
        ) from error
    except (TypeError, AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"backbone={name!r} cannot be built for images of shape {in_shape} with backbone_options={given}: "
            f"{first_line(error)}"
        ) from error
    if isinstance(pretrained, str):
        load_weights(model, pretrained)
    return model


SMALL_IMAGE_RESNETS = {f"resnet{depth}": depth for depth in (20, 32, 44, 56, 110)}
"""Layers of the residual networks for small images, by name."""

SMALL_IMAGE_MODELS: dict[str, Callable[..., nn.Module]] = {
    "densenet_bc": densenet_bc,
    "vit_tiny": vit_tiny,
    "convnext": convnext,
    "whitened": whitened,
}
"""Builders of the other models for small images, by name."""

TRANSFORMING = ("googlenet", "inception_v3")
"""Models of torchvision that bring images to other means and deviations, if they begin with its weights."""

LIBRARIES = ("torchvision", "timm")
"""What a name may begin with, before a slash."""


def backbone_names() -> list[str]:
    """List the models that can be built by name.

    Returns:
        Those for small images, of torchvision, and of timm where it is installed.

    Example:
        >>> {"resnet32", "vit_tiny", "convnext_tiny"} <= set(backbone_names())
        True
    """
    from torchvision import models

    names = [*SMALL_IMAGE_RESNETS, *SMALL_IMAGE_MODELS, *models.list_models(module=models)]
    timm = _timm()
    if timm is not None:
        names += timm.list_models()
    return names


def names_backbone(name: str) -> bool:
    """Tell whether a text is the name of a backbone, and of nothing else.

    Args:
        name: Such as a user gives for a model.

    Returns:
        Whether it is one of `backbone_names`, or begins with the name of a library and a slash.

    Example:
        >>> names_backbone("resnet18"), names_backbone("timm/levit_128s"), names_backbone("mine.Network")
        (True, True, False)
    """
    if name.partition("/")[0] in LIBRARIES:
        return "/" in name
    if not name.islower() or "." in name:  # a class, or its import path
        return False
    return name in backbone_names()


Builder = Callable[[tuple[int, int, int], int, bool, dict[str, Any]], nn.Module]


def _builder_of(name: str) -> Builder:
    """What builds the model of this name."""
    from torchvision import models

    library, _, short = name.rpartition("/")
    if name in (*SMALL_IMAGE_RESNETS, *SMALL_IMAGE_MODELS):
        return lambda *given: _of_small_images(name, *given)
    if library in ("", "torchvision") and short in models.list_models(module=models):
        return lambda *given: _of_torchvision(short, *given)
    timm = _timm()
    if timm is not None and library in ("", "timm") and timm.is_model(short):
        return lambda *given: _of_timm(timm, short, *given)
    if timm is None and library == "timm":
        raise ValueError(f"backbone={name!r} is a model of timm, which is not installed; install it: pip install timm")
    raise ValueError(f"backbone={name!r} is unknown; {_instead(short, timm is not None)}")


def _timm() -> Any:
    """The library, where it is installed: it is no dependency."""
    try:
        import timm
    except ImportError:
        return None
    return timm if hasattr(timm, "list_models") else None  # a folder of that name is no library


def _instead(name: str, with_timm: bool) -> str:
    close = difflib.get_close_matches(name, backbone_names(), n=3)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    more = "or timm" if with_timm else "or, once it is installed (pip install timm), of timm"
    return f"use the name of a model of torchvision {more}, or override configure_backbone"


def _of_small_images(
    name: str, in_shape: tuple[int, int, int], num_classes: int, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    if pretrained:
        raise ValueError("there are no weights of it; give pretrained a file, or False")
    if name in SMALL_IMAGE_MODELS:
        return SMALL_IMAGE_MODELS[name](in_shape, num_classes, **options)
    return SmallImageResNet(SMALL_IMAGE_RESNETS[name], in_shape[0], num_classes, **options)


def _of_torchvision(
    name: str, in_shape: tuple[int, int, int], num_classes: int, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    from torchvision import models

    built_in: dict[str, Any] = {}
    if name.startswith("vit_"):
        built_in["image_size"] = in_shape[1]
    if name.startswith("maxvit"):
        built_in["input_size"] = in_shape[1:]
    if name in TRANSFORMING:
        built_in |= {"aux_logits": pretrained, "init_weights": False}
    if pretrained:
        model = models.get_model(name, weights="DEFAULT", **built_in | options)
        replace_classifier(model, num_classes)
    else:
        model = models.get_model(name, weights=None, num_classes=num_classes, **built_in | options)
    if pretrained and name in TRANSFORMING:
        model.aux_logits = False
        for auxiliary in ("AuxLogits", "aux1", "aux2"):
            if hasattr(model, auxiliary):
                setattr(model, auxiliary, None)
    if in_shape[0] != 3:
        replace_first_convolution(model, in_shape[0])
    built: nn.Module = model
    return built


def _of_timm(
    timm: Any, name: str, in_shape: tuple[int, int, int], num_classes: int, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    given = {"pretrained": pretrained, "num_classes": num_classes, "in_chans": in_shape[0]} | options
    try:
        model: nn.Module = timm.create_model(name, **{"img_size": in_shape[1:]} | given)
    except TypeError:  # it takes images of any size
        model = timm.create_model(name, **given)
    return model


def replace_classifier(model: nn.Module, num_classes: int) -> None:
    """Give a model a new last layer, where it has another number of classes.

    Args:
        model: Whose last dense layer, or convolution, gives the logits.
        num_classes: How many it is to have.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1000))
        >>> replace_classifier(model, 10)
        >>> model[2].out_features
        10
    """
    name = last_layer(model)
    layer = model.get_submodule(name)
    if isinstance(layer, nn.Linear) and layer.out_features != num_classes:
        _replace(model, name, nn.Linear(layer.in_features, num_classes, layer.bias is not None))
    elif isinstance(layer, nn.Conv2d) and layer.out_channels != num_classes:
        _replace(model, name, nn.Conv2d(layer.in_channels, num_classes, layer.kernel_size))  # type: ignore[arg-type]


def last_layer(model: nn.Module) -> str:
    """Find the layer that gives the logits.

    Args:
        model: From images to logits.

    Returns:
        The name of its last dense layer, or where there is none convolution; empty where there is neither.

    Example:
        >>> last_layer(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 10)))
        '2'
    """
    last = ""
    for kind in (nn.Conv2d, nn.Linear):
        for name, module in model.named_modules():
            if isinstance(module, kind):
                last = name
    return last


def replace_first_convolution(model: nn.Module, in_channels: int) -> None:
    """Let a model take images of other channels; the weights of three are shared out to them.

    Args:
        model: Whose first convolution takes the images.
        in_channels: Channels of the images.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3))
        >>> replace_first_convolution(model, 1)
        >>> model[0].weight.shape
        torch.Size([8, 1, 3, 3])
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            with torch.no_grad():
                weight = layer.weight.mean(1, keepdim=True) * layer.in_channels / in_channels
                layer.weight = nn.Parameter(weight.repeat(1, in_channels, 1, 1))
            layer.in_channels = in_channels
            return


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, layer)


def load_weights(model: nn.Module, path: str) -> None:
    """Begin with weights from a file; those of the last layer are left out where the classes are others.

    Args:
        model: That gets them.
        path: A file of ``torch.save(model.state_dict(), path)``, or a checkpoint of a `CutNet`.

    Raises:
        ValueError: If the file cannot be read, or has the weights of another model.
    """
    weights = _weights_in(path)
    own = model.state_dict()
    last = f"{last_layer(model)}."
    for name in list(weights):
        if name.startswith(last) and name in own and weights[name].shape != own[name].shape:
            del weights[name]
    wrong = [name for name in weights if name not in own or weights[name].shape != own[name].shape]
    missing = [name for name in own if name not in weights and not name.startswith(last)]
    for name in [*wrong, *missing]:
        there = "is missing" if name in missing else "has no place in it, or another shape"
        raise ValueError(
            f"pretrained={path!r} has not the weights of this {type(model).__name__}: {name} {there}; give the weights "
            "of a model of the same name and options"
        )
    model.load_state_dict(weights, strict=False)


def _weights_in(path: str) -> dict[str, Tensor]:
    """The weights of a file, by their names in the model."""
    try:
        content = read_checkpoint(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"pretrained={path!r} cannot be read as weights: {first_line(error)}") from error
    entries = content.get("state_dict", content) if isinstance(content, dict) else {}
    for prefix in ("network.backbone.", "network.model."):
        inside = {name[len(prefix) :]: value for name, value in entries.items() if name.startswith(prefix)}
        if inside:
            return inside
    if not entries or not all(isinstance(value, Tensor) for value in entries.values()):
        raise ValueError(f"pretrained={path!r} holds no weights; save them by torch.save(model.state_dict(), path)")
    return dict(entries)
