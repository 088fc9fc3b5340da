"""Short names of the classes that come with the package, and of backbones, for the command line and YAML."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from primenet_lightning.commands.command_line import given_options, yaml_content

SHORT_NAMES: dict[str, dict[str, str]] = {
    "model": {
        "prime": "primenet_lightning.PrimeNet",
        "cut": "primenet_lightning.CutNet",
        "cutnet": "primenet_lightning.CutNet",
        "resnet20": "primenet_lightning.baselines.CifarResNet20",
        "resnet50": "primenet_lightning.baselines.ResNet50",
        "one_scale": "primenet_lightning.baselines.OneScale",
        "multi_exit": "primenet_lightning.baselines.MultiExit",
        "rnp": "primenet_lightning.baselines.RNPNet",
        "dt_ram": "primenet_lightning.baselines.DTRAMNet",
        "msdnet": "primenet_lightning.baselines.MSDNet",
        "imta": "primenet_lightning.baselines.IMTA",
    },
    "data": {
        "mnist": "primenet_lightning.datamodules.MNISTDataModule",
        "fashion-mnist": "primenet_lightning.datamodules.FashionMNISTDataModule",
        "cifar10": "primenet_lightning.datamodules.CIFAR10DataModule",
        "cifar100": "primenet_lightning.datamodules.CIFAR100DataModule",
        "svhn": "primenet_lightning.datamodules.SVHNDataModule",
        "digits": "primenet_lightning.datamodules.DigitsDataModule",
        "folder": "primenet_lightning.datamodules.FolderDataModule",
    },
}
"""By option, the class path of each short name. ``config.yaml`` has the class paths."""

CUT = SHORT_NAMES["model"]["cut"]
"""The class of which a backbone's name is an argument."""


def full_name(option: str, name: Any) -> Any:
    """Give the class path of a short name.

    Args:
        option: ``"model"`` or ``"data"``.
        name: What the user has given.

    Returns:
        The class path; what is no short name, as it is.

    Example:
        >>> full_name("data", "mnist"), full_name("data", "mine.Stripes")
        ('primenet_lightning.datamodules.MNISTDataModule', 'mine.Stripes')
    """
    if not isinstance(name, str):
        return name
    return SHORT_NAMES[option].get(name, name)


def backbone_name(option: str, name: Any) -> str | None:
    """Tell whether a name stands for a `CutNet` of a backbone.

    Args:
        option: ``"model"`` or ``"data"``.
        name: What the user has given.

    Returns:
        The name of the backbone; None if it is a short name, or none of a backbone.

    Example:
        >>> backbone_name("model", "resnet18"), backbone_name("model", "resnet50"), backbone_name("model", "mine.Net")
        ('resnet18', None, None)
    """
    if option != "model" or not isinstance(name, str) or name in SHORT_NAMES["model"]:
        return None
    from primenet_lightning.models.backbones import names_backbone  # loads torch, which not every command needs

    return name if names_backbone(name) else None


def with_full_names(args: Sequence[str]) -> list[str]:
    """Replace short names by class paths, on the command line and in the YAML files that it names.

    Args:
        args: Command line without the program's name.

    Returns:
        The same; of a YAML file with short names its content, which ``--config`` takes as well. The name of a backbone
        becomes `CutNet`, and an argument of it.

    Raises:
        ValueError: If two backbones are named at once.

    Example:
        >>> with_full_names(["fit", "--data", "mnist", "--model=prime"])
        ['fit', '--data', 'primenet_lightning.datamodules.MNISTDataModule', '--model=primenet_lightning.PrimeNet']
        >>> with_full_names(["fit", "--model", "resnet18"])
        ['fit', '--model', 'primenet_lightning.CutNet', '--model.backbone', 'resnet18']
    """
    args = list(args)
    for option in reversed(list(given_options(args))):
        backbone = backbone_name(option.name.removeprefix("--"), option.value)
        if backbone is not None:
            _refuse_second_backbone(backbone, args)
            args[option.start : option.end] = [option.name, CUT, "--model.backbone", backbone]
            continue
        value = _with_full_names(option.name, option.value)
        if value != option.value:
            given = [f"{option.name}={value}"]
            if option.end - option.start == 2:
                given = [option.name, value]
            args[option.start : option.end] = given
    return args


def _refuse_second_backbone(backbone: str, args: Sequence[str]) -> None:
    for option in given_options(args):
        if option.name in ("--model.backbone", "--model.init_args.backbone"):
            raise _two_backbones(backbone, f"{option.name.removeprefix('--')}={option.value}")


def _two_backbones(backbone: str, other: str) -> ValueError:
    return ValueError(f"model={backbone} is itself a backbone, and {other} another; leave one of them out")


def _with_full_names(name: str, value: str) -> str:
    """The value of one option."""
    if name in ("-c", "--config"):
        return _config_with_full_names(value)
    option = name.removeprefix("--").removesuffix(".help")
    if option not in SHORT_NAMES:
        return value
    if value in SHORT_NAMES[option]:
        return SHORT_NAMES[option][value]
    if backbone_name(option, value) is not None:  # of which --model.help is asked
        return CUT
    described = yaml_content(value)
    spelled = _class_with_full_name(option, described)
    if spelled == described:
        return value
    return yaml.safe_dump(spelled, default_flow_style=True)


def _config_with_full_names(value: str) -> str:
    """A YAML file; one with short names by its content."""
    config = yaml_content(value)
    if not isinstance(config, Mapping):
        return value
    spelled = {name: _class_with_full_name(name, described) for name, described in config.items()}
    if spelled == config:
        return value
    return yaml.safe_dump(spelled, sort_keys=False)


def _class_with_full_name(option: str, described: Any) -> Any:
    """A class as YAML describes it: by name alone, or with its arguments."""
    if option not in SHORT_NAMES:
        return described
    if isinstance(described, Mapping) and "class_path" in described:
        backbone = backbone_name(option, described["class_path"])
        if backbone is not None:
            return _cut(backbone, described)
        return {**described, "class_path": full_name(option, described["class_path"])}
    backbone = backbone_name(option, described)
    if backbone is not None:
        return _cut(backbone, {})
    return full_name(option, described)


def _cut(backbone: str, described: Mapping[str, Any]) -> dict[str, Any]:
    """A `CutNet` of a backbone, with what else YAML says of it."""
    arguments = dict(described.get("init_args") or {})
    if "backbone" in arguments:
        raise _two_backbones(backbone, f"backbone={arguments['backbone']}")
    return {**described, "class_path": CUT, "init_args": {"backbone": backbone, **arguments}}
