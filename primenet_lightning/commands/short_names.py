"""Short names of the classes that come with the package, of sizes and of backbones, for the command line and YAML."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
        "condensenet": "primenet_lightning.baselines.CondenseNet",
        "one": "primenet_lightning.baselines.OneNet",
        "one_target": "primenet_lightning.baselines.TargetResNet",
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


class Shorthand(NamedTuple):
    """A class and one of its arguments, which a name stands for.

    Attributes:
        class_path: Of the class.
        argument: Its name.
        value: Its value.
    """

    class_path: str
    argument: str
    value: str


_CONDENSENET = SHORT_NAMES["model"]["condensenet"]

DEPTHS = ("50", "74", "86", "98", "110", "122", "182")
"""Of the published networks that are called after theirs."""

SIZES = {
    **{f"condensenet{size}": Shorthand(_CONDENSENET, "size", size) for size in DEPTHS},
    "condensenet_light94": Shorthand(_CONDENSENET, "size", "light94"),
}
"""Models of a published size, by name."""


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


def shorthand(option: str, name: Any) -> Shorthand | None:
    """Tell whether a name stands for a class and one of its arguments: a published size, or a backbone.

    Args:
        option: ``"model"`` or ``"data"``.
        name: What the user has given.

    Returns:
        Both; None if it stands for no such thing.

    Example:
        >>> shorthand("model", "resnet18")
        Shorthand(class_path='primenet_lightning.CutNet', argument='backbone', value='resnet18')
        >>> shorthand("model", "condensenet86").value
        '86'
    """
    if option == "model" and isinstance(name, str) and name in SIZES:
        return SIZES[name]
    backbone = backbone_name(option, name)
    return None if backbone is None else Shorthand(CUT, "backbone", backbone)


def with_full_names(args: Sequence[str]) -> list[str]:
    """Replace short names by class paths, on the command line and in the YAML files that it names.

    Args:
        args: Command line without the program's name.

    Returns:
        The same; of a YAML file with short names its content, which ``--config`` takes as well. The name of a backbone
        becomes `CutNet`, and an argument of it; so does that of a size.

    Raises:
        ValueError: If two backbones, or two sizes, are named at once.

    Example:
        >>> with_full_names(["fit", "--data", "mnist", "--model=prime"])
        ['fit', '--data', 'primenet_lightning.datamodules.MNISTDataModule', '--model=primenet_lightning.PrimeNet']
        >>> with_full_names(["fit", "--model", "resnet18"])
        ['fit', '--model', 'primenet_lightning.CutNet', '--model.backbone', 'resnet18']
    """
    args = list(args)
    for option in reversed(list(given_options(args))):
        short = shorthand(option.name.removeprefix("--"), option.value)
        if short is not None:
            _refuse_second(short, option.value, args)
            argument = [f"--model.{short.argument}", short.value]
            args[option.start : option.end] = [option.name, short.class_path, *argument]
            continue
        value = _with_full_names(option.name, option.value)
        if value != option.value:
            given = [f"{option.name}={value}"]
            if option.end - option.start == 2:
                given = [option.name, value]
            args[option.start : option.end] = given
    return args


def _refuse_second(short: Shorthand, name: str, args: Sequence[str]) -> None:
    for option in given_options(args):
        if option.name in (f"--model.{short.argument}", f"--model.init_args.{short.argument}"):
            raise _two_of_them(short, name, f"{option.name.removeprefix('--')}={option.value}")


def _two_of_them(short: Shorthand, name: str, other: str) -> ValueError:
    return ValueError(f"model={name} is itself a {short.argument}, and {other} another; leave one of them out")


def _with_full_names(name: str, value: str) -> str:
    """The value of one option."""
    if name in ("-c", "--config"):
        return _config_with_full_names(value)
    option = name.removeprefix("--").removesuffix(".help")
    if option not in SHORT_NAMES:
        return value
    if value in SHORT_NAMES[option]:
        return SHORT_NAMES[option][value]
    short = shorthand(option, value)
    if short is not None:  # of which --model.help is asked
        return short.class_path
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
        short = shorthand(option, described["class_path"])
        if short is not None:
            return _spelled_out(short, described)
        return {**described, "class_path": full_name(option, described["class_path"])}
    short = shorthand(option, described)
    if short is not None:
        return _spelled_out(short, {"class_path": described})
    return full_name(option, described)


def _spelled_out(short: Shorthand, described: Mapping[str, Any]) -> dict[str, Any]:
    """The class and its argument, with what else YAML says of it."""
    arguments = dict(described.get("init_args") or {})
    if short.argument in arguments:
        other = f"{short.argument}={arguments[short.argument]}"
        raise _two_of_them(short, described["class_path"], other)
    init_args = {short.argument: short.value, **arguments}
    return {**described, "class_path": short.class_path, "init_args": init_args}
