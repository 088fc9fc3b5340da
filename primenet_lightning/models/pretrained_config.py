"""``config.json``: how a network that was saved without code is built again, and what may not stand in there."""

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from primenet_lightning.arguments import first_line
from primenet_lightning.datamodules.description import complete_description
from primenet_lightning.nn.first_weights import weights_follow
from primenet_lightning.training.learner import LocalLearner

Model = TypeVar("Model", bound=LocalLearner)

CONFIG = "config.json"
WEIGHTS = "model.safetensors"

FORMAT = 1
"""Of all that is exported for use elsewhere: folders, programs and ONNX files. Older versions refuse newer formats."""

DTYPES = ("float32", "float16", "bfloat16", "float64")
"""Types of weights that there are."""

UNSAFE_OPTIONS = (
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "weights",
    "weights_backbone",
)
"""Arguments of a library's builders that would have it read other files."""

SETTINGS = ("thresholds", "budget", "prediction")
"""What models with exits have learned beside their weights."""


def refuse_newer(saved: Any, where: str | Path) -> None:
    """Refuse a file of a format that this version does not know.

    Args:
        saved: Its format.
        where: The file.

    Raises:
        ValueError: If it is newer, or no format.

    Example:
        >>> refuse_newer(2, "config.json")
        Traceback (most recent call last):
        ...
        ValueError: config.json is of format 2, and this version reads up to 1; install a newer primenet-lightning
    """
    if not isinstance(saved, int) or isinstance(saved, bool) or saved < 1:
        raise ValueError(f"{where} has format={saved!r}, which is none; it was not written by primenet-lightning")
    if saved > FORMAT:
        raise ValueError(
            f"{where} is of format {saved}, and this version reads up to {FORMAT}; install a newer primenet-lightning"
        )


@dataclass
class PretrainedConfig:
    """What ``config.json`` says.

    Attributes:
        model_class: Import path of the model's class.
        arguments: Of its constructor.
        choices: Whose maps go on, one index a stage.
        keeps_classifiers: Whether local classifiers are there.
        data: Of the data trained on, see `ImageDataModule.description`.
        dtype: Of the weights.
        settings: What the model has learned beside its weights, such as thresholds of exits.
        format: See `FORMAT`.
        version: Of the package that wrote it.
    """

    model_class: str
    arguments: dict[str, Any]
    choices: tuple[int, ...]
    keeps_classifiers: bool
    data: dict[str, Any]
    dtype: str
    settings: dict[str, Any]
    format: int = FORMAT
    version: str = field(default_factory=lambda: version("primenet-lightning"))

    @classmethod
    def of(cls, model: LocalLearner, keeps_classifiers: bool) -> "PretrainedConfig":
        """Describe a model.

        Args:
            model: Which is to be saved.
            keeps_classifiers: Whether its local classifiers are saved, too.

        Returns:
            What builds it again.

        Raises:
            ValueError: If its data are not described, or if its arguments are no plain data.
        """
        if model.data_description is None:
            raise ValueError(
                "the model does not know its data, as one trained with an ImageDataModule does; set "
                "model.data_description = {'mean': 0.5, 'std': 0.5}, what its pixels were normalised with"
            )
        data = complete_description(model.data_description, model.in_shape, model.num_classes)
        if "backbone" in model.UNSAVED:
            raise ValueError(
                "backbone was given as a module, which a folder without code cannot build again; give it by name, or "
                "save model.backbone.state_dict() yourself"
            )
        arguments = _without_files(model.hparams)
        try:
            json.dumps(arguments, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the arguments of this {type(model).__name__} are no plain data ({first_line(error)}), and a folder "
                "without code holds nothing else"
            ) from error
        settings = {name: getattr(model, name) for name in SETTINGS if hasattr(model, name)}
        return cls(
            f"{type(model).__module__}.{type(model).__qualname__}",
            arguments,
            model.network.choices(),
            keeps_classifiers,
            data,
            str(model.dtype).removeprefix("torch."),
            settings,
        )

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the weights."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def build(self, kind: type[Model]) -> Model:
        """Build the model, with weights that are not yet its own.

        Args:
            kind: What is asked for: the model's class, or one above it.

        Returns:
            A model of the class that was saved.

        Raises:
            ValueError: If that class is not to be trusted, is another than asked for, or has no such arguments.
        """
        actual = self._class_of(kind)
        arguments = {name: _as_tuple(value) for name, value in _without_files(self.arguments).items()}
        self._refuse_code(arguments, actual)
        try:
            with weights_follow():
                return actual(**arguments)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{CONFIG} does not fit {self.model_class}: {first_line(error)}") from error

    def _class_of(self, kind: type[Model]) -> type[Model]:
        """The class that was saved; nothing outside of this package is imported."""
        if self.model_class == f"{kind.__module__}.{kind.__qualname__}":
            return kind
        module, _, name = self.model_class.rpartition(".")
        if not module.startswith("primenet_lightning."):
            raise ValueError(
                f"{CONFIG} names the class {self.model_class}, which is not of this package, and so is not imported; "
                "import it yourself, if you trust it, and call its own from_pretrained"
            )
        try:
            actual = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{CONFIG} names the class {self.model_class}, which this version has not") from error
        if not (isinstance(actual, type) and issubclass(actual, kind)):
            raise ValueError(f"{CONFIG} is of a {name}, and no {kind.__name__}; call {name}.from_pretrained")
        return actual

    @staticmethod
    def _refuse_code(arguments: Mapping[str, Any], kind: type[LocalLearner]) -> None:
        """Refuse arguments that would import or read something that is not in the folder."""
        router = str(arguments.get("router", ""))
        package = kind.__module__.partition(".")[0]
        if "." in router and router.partition(".")[0] != package:
            raise ValueError(
                f"{CONFIG} names router={router!r}, which is not of the package {package}, and so is not "
                "imported; build the network yourself, if you trust it"
            )
        for name in arguments.get("backbone_options") or {}:
            if name in UNSAFE_OPTIONS:
                raise ValueError(f"{CONFIG} has backbone_options with {name!r}, which would read other weights")

    def restore(self, model: LocalLearner) -> None:
        """Give a model that was built what it has learned beside its weights.

        Args:
            model: From `build`.

        Raises:
            ValueError: If the data are others than the network was built for.
        """
        try:
            model.data_description = complete_description(self.data, model.in_shape, model.num_classes)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{CONFIG} describes other data than the network's: {first_line(error)}") from error
        for name in SETTINGS:
            if name in self.settings and hasattr(model, name):
                setattr(model, name, self.settings[name])


def write_config(config: PretrainedConfig) -> str:
    """Write what builds a model again.

    Args:
        config: What.

    Returns:
        JSON, for a file.
    """
    return json.dumps(asdict(config), indent=2) + "\n"


def read_config(folder: Path) -> PretrainedConfig:
    """Read what builds a model again.

    Args:
        folder: That `save_pretrained` wrote.

    Returns:
        What ``config.json`` says.

    Raises:
        ValueError: If it is not there, not whole, or of a newer format.
    """
    path = folder / CONFIG
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} has no {CONFIG}; give the folder that save_pretrained wrote") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no whole JSON file ({first_line(error)}); copy it again") from error
    if not isinstance(saved, dict):
        raise ValueError(f"{path} holds a {type(saved).__name__}, and no options; it is not of this package")
    refuse_newer(saved.get("format"), path)
    try:
        config = PretrainedConfig(**saved)
        config.choices = tuple(int(choice) for choice in config.choices)
        plain = isinstance(config.arguments, dict) and isinstance(config.data, dict)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} has other entries than format {FORMAT} ({first_line(error)})") from error
    if not plain or not isinstance(config.model_class, str) or config.dtype not in DTYPES:
        raise ValueError(f"{path} has other entries than format {FORMAT}; it was changed, so copy it again")
    return config


def _without_files(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Name no other files of weights: those here are all that there are."""
    named = dict(arguments)
    if isinstance(named.get("pretrained"), str):
        named["pretrained"] = False
    if "trained" in named:
        named["trained"] = None
    return named


def _as_tuple(value: Any) -> Any:
    """JSON knows no tuples, and arguments are such where they are sequences."""
    return tuple(_as_tuple(each) for each in value) if isinstance(value, list) else value
