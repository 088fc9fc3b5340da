"""The recipe of a run, from its options."""

from collections.abc import Mapping
from typing import Any

OPTIMIZERS = {
    "optimizer": "optimizer",
    "capsule_optimizer": "optimizer of the capsules",
    "head_optimizer": "optimizer of the head",
}


ARCHITECTURE = {
    "size": "size",
    "depth": "blocks",
    "kernel_sizes": "kernels of the capsules",
    "channels": "channels of the capsules",
    "router": "what a block hands on",
    "local_loss": "local loss",
    "local_classifier": "local classifier",
    "local_classifier_options": "options of the local classifier",
    "local": "learns locally",
    "backbone": "backbone",
    "backbone_options": "options of the backbone",
    "parts": "parts",
    "at": "cut before",
    "recipe": "local classifiers of its parts",
}
"""Options of a model that say what it is."""


def recipe_rows(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say by what a network was trained.

    Args:
        config: Of ``config.yaml``.

    Returns:
        What, and its value.

    Example:
        >>> model = {"class_path": "primenet_lightning.PrimeNet"}
        >>> recipe_rows({"seed_everything": 1, "trainer": {"max_epochs": 3, "precision": None}, "model": model})
        [('network', 'PrimeNet'), ('epochs', '3'), ('seed', '1')]
    """
    model = _options(config, "model")
    data = _options(config, "data")
    trainer = config.get("trainer") or {}
    rows: list[tuple[str, Any]] = [("network", _class_name(config.get("model")))]
    for name, title in ARCHITECTURE.items():
        rows.append((title, in_words(model.get(name))))
    for name, title in OPTIMIZERS.items():
        rows.append((title, in_words(model.get(name))))
    rows += [
        ("schedule", model.get("schedule")),
        ("label smoothing", model.get("label_smoothing")),
        ("epochs", trainer.get("max_epochs")),
        ("batch size", data.get("batch_size")),
        ("pixels normalised", data.get("normalization")),
        ("augmentation", in_words(data.get("augmentation"))),
        ("callbacks", in_words(trainer.get("callbacks"))),
        ("precision", trainer.get("precision")),
        ("held out for validation", data.get("validation_fraction")),
        ("images to train on, at most", data.get("limit_train")),
        ("seed", config.get("seed_everything")),
    ]
    return [(title, str(value)) for title, value in rows if value not in (None, "")]


def in_words(part: Any) -> str:
    """Write a part of a recipe on a line.

    Args:
        part: A class path with arguments, options by name, or a list of such; None is nothing.

    Returns:
        The class's own name, and those arguments that are not off.

    Example:
        >>> in_words({"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1, "fused": None, "betas": [0.9, 0.99]}})
        'AdamW (lr 0.1, betas 0.9 and 0.99)'
    """
    if part is None or part == []:
        return ""
    if isinstance(part, list) and isinstance(part[0], Mapping):
        return "; ".join(in_words(each) for each in part)
    if not isinstance(part, Mapping):
        return _value(part)
    if "class_path" in part:
        options = _arguments(part.get("init_args") or {})
        return f"{_class_name(part)} ({options})" if options else _class_name(part)
    return _arguments(part)


def _arguments(options: Mapping[str, Any]) -> str:
    """Arguments that are not off."""
    words: list[str] = []
    for name, value in options.items():
        if value is None or value is False or value == []:
            continue
        words.append(f"{name} {_value(value)}")
    return ", ".join(words)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({in_words(value)})"
    if isinstance(value, list):
        return " and ".join(_value(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _options(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name) or {}
    options: Mapping[str, Any] = part.get("init_args", part) or {}
    return options


def _class_name(part: Any) -> str:
    if not isinstance(part, Mapping):
        return ""
    return str(part.get("class_path", "")).rpartition(".")[2]
