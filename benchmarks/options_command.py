"""Give options of every kind to ``primenet fit``, as arguments and in YAML: each trains, or is told in a sentence.

Called by `options`. A case takes a quick run on the digits and changes one or two of its options, or of the values
in its YAML file: to another value, to another name, to a list, or to nothing. Left out are the options that start other
processes (``devices``, ``num_nodes``), and an endless fit.
"""

import copy
import io
import random
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from lightning.pytorch import Trainer
from options_judging import Verdict, is_named, parameters_of, place_of, quickly, words_of

from primenet_lightning import PrimeNet
from primenet_lightning.argument_types import fits
from primenet_lightning.callbacks import CapsuleLossCurves
from primenet_lightning.commands.command_line import yaml_value
from primenet_lightning.commands.main import main
from primenet_lightning.datamodules import DigitsDataModule

QUICK: Mapping[str, str] = {
    "trainer.accelerator": "cpu",
    "trainer.limit_train_batches": "1",
    "trainer.limit_val_batches": "1",
    "trainer.limit_test_batches": "1",
    "trainer.max_epochs": "1",
    "trainer.enable_progress_bar": "false",
    "figures": "false",
    "model.channels": "4",
    "model.head_channels": "5",
    "model.reduce_channels": "2",
    "model.projection_channels": "3",
    "data.batch_size": "30",
    "run": "mine",
}
"""A run of a second."""

SGD = "torch.optim.SGD"
CONFIG: Mapping[str, Any] = {
    "seed_everything": 1,
    "model": {
        "class_path": "primenet_lightning.PrimeNet",
        "init_args": {
            "channels": 4,
            "head_channels": 5,
            "reduce_channels": 2,
            "projection_channels": 3,
            "kernel_sizes": [3, 5],
            "router": "settle",
            "router_options": {"decay": 0.9},
            "capsule_optimizer": {"class_path": SGD, "init_args": {"lr": 0.1, "momentum": 0.9}},
            "head_scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1}},
        },
    },
    "data": {
        "class_path": "primenet_lightning.datamodules.DigitsDataModule",
        "init_args": {
            "batch_size": 30,
            "limit_train": 60,
            "augmentation": {"class_path": "primenet_lightning.datamodules.Augment", "init_args": {"crop": 1}},
        },
    },
    "trainer": {
        "accelerator": "cpu",
        "limit_train_batches": 1,
        "limit_val_batches": 1,
        "limit_test_batches": 1,
        "max_epochs": 1,
        "enable_progress_bar": False,
        "callbacks": [{"class_path": "primenet_lightning.callbacks.Lookahead", "init_args": {"every": 2}}],
    },
    "figures": False,
    "figure_format": "svg",
    "run": "mine",
}
"""The same in YAML, with classes within classes."""

NOT_TRIED = ("devices", "num_nodes", "strategy", "fast_dev_run", "plugins")
"""Options of the Trainer that begin other processes, or are Lightning's own objects."""

TEXTS = (
    *("", "x", "none", "null", "~", "-1", "0", "1", "2", "3", "9", "1.5", "-0.5", "0.5", ".nan", ".inf", "true"),
    *("false", "[]", "[1, 2]", "[x]", "[3, 5]", "{}", "{x: 1}", "{class_path: x}", "[1", "{a", "'", "a: b: c", "@"),
    *("{class_path: torch.optim.SGD}", "{class_path: torch.optim.SGD, init_args: {lr: x}}", "torch.optim.SGD"),
    *("{class_path: torch.optim.Adam, init_args: {lrr: 1}}", "torch.nn.Linear", "torch.nosuch", "é", "1e3", "0x10"),
    *("2024-01-01", "auto"),
)
"""Values on the command line."""

VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 9, 1.5, -0.5, float("nan"), float("inf"), "", "x", "auto", "1", "1e-3"),
    *([], [1], [1, 2], ["x"], {}, {"x": 1}, {"class_path": "x"}, {"class_path": SGD}, {"init_args": {}}),
    *({"class_path": SGD, "init_args": {"lr": "x"}}, {"class_path": 3}, [{"class_path": SGD}], "torch.nn.Linear"),
)
"""Values in YAML."""

NO_KIND = r"[^ ]*=.*? "
"""What sentences of one kind differ in: the option and its value."""

LONGEST = 700
"""Letters of what is told, at most."""

Config = dict[str, Any]


class CommandCase(NamedTuple):
    """A case.

    Attributes:
        args: Of the command.
        config: The YAML file that ``--config`` names, or empty.
        names: Of what was changed, one of which the sentence has to have.
    """

    args: list[str]
    config: Config
    names: set[str]


def option_types() -> dict[str, Any]:
    """All options that are tried, as they are named on the command line, and what they take."""
    types: dict[str, Any] = {"figures": bool, "figure_format": str, "model": str, "data": str, "config": str}
    types |= {"seed_everything": int, "every_n_train_steps": int, "run": str, "resume": str, "ckpt_path": str}
    types |= {"model.capsule_optimizer.lr": float, "model.head_optimizer.betas": tuple[float, float]}
    for group, kind in (("model", PrimeNet), ("data", DigitsDataModule), ("trainer", Trainer)):
        for name, parameter in parameters_of(kind).items():
            if name not in NOT_TRIED:
                types[f"{group}.{name}"] = parameter.annotation
    return types


OPTIONS = option_types()


def draw_case(moments: random.Random) -> CommandCase:
    """Draw a case: half of them change the command line, half a YAML file."""
    if moments.random() < 0.5:
        return _draw_line(moments)
    return _draw_config(moments)


def _draw_line(moments: random.Random) -> CommandCase:
    options, names = dict(QUICK), set[str]()
    for name in moments.sample(sorted(OPTIONS), moments.randint(1, 2)):
        value = moments.choice(_texts_for(OPTIONS[name], moments))
        if moments.random() < 0.1:
            place = moments.randrange(len(name))
            name = name[:place] + name[place + 1 :]
        options[name] = value
        names |= {name, name.rpartition(".")[2], *(re.findall(r"\w+", value) if name == "config" else ())}
    if options["trainer.max_epochs"] == "-1":
        options["trainer.max_epochs"] = "-2"
    return CommandCase([f"--{name}={value}" for name, value in options.items()], {}, names)


def _texts_for(annotation: Any, moments: random.Random) -> Sequence[str]:
    """What an option may be given: in half of the cases of the right type."""
    if moments.random() < 0.5:
        return TEXTS
    texts = [text for text in TEXTS if fits(yaml_value(text), annotation)]
    return [*texts, *map(str, words_of(annotation))] or TEXTS


def _draw_config(moments: random.Random) -> CommandCase:
    config, names = copy.deepcopy(dict(CONFIG)), set[str]()
    for _ in range(moments.randint(1, 2)):
        holder, key, path = moments.choice(list(_places(config, ())))
        names |= {str(one) for one in (*path[1:], key)}
        if key in ("class_path", "init_args"):
            names |= {str(path[-1])}
        _change(holder, key, names, moments)
    if isinstance(config.get("trainer"), dict) and config["trainer"].get("max_epochs") == -1:
        config["trainer"]["max_epochs"] = -2
    return CommandCase(["--config=given.yaml"], config, names)


def _places(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, Any, tuple[Any, ...]]]:
    """Every value of a config: what holds it, under which key, and where that is."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(node, dict):
        pairs = list(node.items())
    elif isinstance(node, list):
        pairs = list(enumerate(node))
    for key, value in pairs:
        yield node, key, path
        yield from _places(value, (*path, key))


def _change(holder: Any, key: Any, names: set[str], moments: random.Random) -> None:
    """Change a value, or its name."""
    change = moments.random()
    if change < 0.6 or isinstance(holder, list):
        alike = [value for value in VALUES if type(value) is type(holder[key])]
        value = copy.deepcopy(moments.choice(alike if alike and moments.random() < 0.5 else VALUES))
        holder[key] = value
        names |= set(value) if isinstance(value, dict) else set()
    elif change < 0.75:
        holder[key] = [holder[key]]
    elif change < 0.9:
        del holder[key]
    else:
        new = moments.choice([f"{key}x", str(key)[:-1], moments.choice(sorted(OPTIONS)).rpartition(".")[2]])
        holder[new] = holder.pop(key)
        names.add(new)


def told(case: CommandCase) -> tuple[int, str]:
    """Run a case.

    Args:
        case: The case.

    Returns:
        The exit status, and what was told on stderr.
    """
    CapsuleLossCurves._draw = lambda self, trainer: None  # type: ignore[method-assign]  # half of a run's time
    shutil.rmtree("mine", ignore_errors=True)
    Path("given.yaml").write_text(yaml.safe_dump(case.config, sort_keys=False))
    err = io.StringIO()
    with redirect_stderr(err), redirect_stdout(io.StringIO()):
        try:
            status = main(["fit", *case.args])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
    return status, err.getvalue()


def verdict_of(case: CommandCase) -> Verdict:
    """Try a case.

    Args:
        case: The case.

    Returns:
        What came of it.
    """
    try:
        with quickly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            status, words = told(case)
    except Exception as error:
        return Verdict("wrong", place_of(error), f"{type(error).__name__}: {str(error)[:200]!r}")
    _, begins, sentence = words.rpartition("primenet: error: ")
    fault = ""
    if "Traceback" in words:
        fault = "a traceback"
    elif status != 0 and not begins:
        fault = "no sentence"
    elif status != 0 and len(sentence) > LONGEST:
        fault = "too many words"
    elif status != 0 and not any(is_named(name, sentence) for name in case.names):
        fault = "no name"
    if fault:
        return Verdict("wrong", f"{fault} {re.split(NO_KIND, sentence)[-1][:50]}", sentence[:300])
    return Verdict("refused" if status else "trains", words=sentence)


def try_command(moments: random.Random, places: set[str]) -> Verdict:
    """Try a case of the command, and print it if it fails at a new place."""
    case = draw_case(moments)
    one = verdict_of(case)
    if one.outcome == "wrong" and one.place not in places:
        places.add(one.place)
        for fewer in smaller(case):
            other = verdict_of(fewer)
            if (other.outcome, other.place) == (one.outcome, one.place):
                case = fewer
                break
        print(f"wrong: primenet fit with {'; '.join(shown(case))} at {one.place}: {one.words}", flush=True)
    return one


def smaller(case: CommandCase) -> Iterator[CommandCase]:
    """Cases of fewer changes."""
    for place, argument in enumerate(case.args):
        name, _, value = argument[2:].partition("=")
        if name not in QUICK and len(case.args) > 1:
            yield case._replace(args=[*case.args[:place], *case.args[place + 1 :]])
        elif name in QUICK and value != QUICK[name]:
            yield case._replace(args=[*case.args[:place], f"--{name}={QUICK[name]}", *case.args[place + 1 :]])


def shown(case: CommandCase) -> Sequence[str]:
    """What of a case differs from the quick run."""
    lines = [argument for argument in case.args if argument not in [f"--{n}={v}" for n, v in QUICK.items()]]
    if case.config:
        lines += list(_differences(CONFIG, case.config, ""))
    return lines


def _differences(before: Any, now: Any, path: str) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, dict):
        for key in {**before, **now}:
            if key not in now:
                yield f"{path}.{key} is left out"
            else:
                yield from _differences(before.get(key), now[key], f"{path}.{key}")
    elif before != now:
        yield f"{path}: {now!r}"
