"""Arguments of the wrong type are refused before a constructor runs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from primenet_lightning import CutNet, PrimeNet
from primenet_lightning.argument_types import fits, in_words
from primenet_lightning.baselines import OneScale
from primenet_lightning.datamodules import DigitsDataModule


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        *((1, int), (np.int64(1), int), (torch.tensor(1), int), (1, float), (np.float32(0.5), float), (True, bool)),
        *((None, int | None), ("a", Literal["a", "b"]), ([3, 5], Sequence[int]), ((3, 5), tuple[int, int])),
        *(([8, 8], tuple[int, int]), ((1, 2, 3), tuple[int, ...]), ({}, Mapping[str, int]), (len, Callable[..., int])),
        *(("it", Path), (Path("it"), str | Path), (np.array([1, 2]), Sequence[int]), (object(), torch.nn.Module)),
    ],
)
def test_what_fits(value, annotation):
    assert fits(value, annotation)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        *((1.5, int), (True, int), ("1", int), (None, int), (b"x", float), ([1], float), (True, float), (1, bool)),
        *((3, Literal["a", "b"]), (1, Literal[True]), ("35", Sequence[int]), ([1.5], Sequence[int]), ({}, str)),
        *(
            ((1, 2.5), tuple[int, int]),
            (torch.tensor(1), Sequence[int]),
            ([], Mapping[str, int]),
            (1, Callable[..., int]),
        ),
        *((1.5, str | Path), (b"x", str), ([1, "x"], int | Sequence[int] | None)),
    ],
)
def test_what_does_not_fit(value, annotation):
    assert not fits(value, annotation)
    assert in_words(annotation)


# counterexamples of benchmarks/options.py, made small
@pytest.mark.parametrize(
    ("kind", "argument", "value", "words"),
    [
        (PrimeNet, "bias_lr_factor", b"x", "a number"),
        (PrimeNet, "channels", 0.5, "a whole number"),
        (PrimeNet, "kernel_sizes", False, r"a list of \(a whole number\)"),
        (PrimeNet, "local_loss_options", 1, "options by name or None"),
        (PrimeNet, "inference_routing", float("inf"), "'majority'"),
        (PrimeNet, "image_size", None, r"\(a whole number, a whole number\)"),
        (PrimeNet, "lr", {}, "a number or None"),
        (PrimeNet, "router", 1.5, "a text"),
        (PrimeNet, "stride", "none", "a whole number"),
        (PrimeNet, "pool_every", 0.0, "a whole number"),
        (PrimeNet, "head_channels", "auto", "a whole number"),
        (PrimeNet, "gradient_clip_val", [-1], "a number or None"),
        (PrimeNet, "head_scheduler", {}, "a class or a function or None"),
        (OneScale, "kernel_size", [-1], "a whole number"),
        (CutNet, "at", 2, r"a list of \(a text\)"),
        (CutNet, "at", "layer2", r"a list of \(a text\)"),
        (DigitsDataModule, "batch_size", "", "a whole number"),
        (DigitsDataModule, "root", float("inf"), "a text, a path or None"),
        (DigitsDataModule, "resize", -0.5, "a whole number"),
        (DigitsDataModule, "validation_fraction", [3, 5], "a number"),
    ],
)
def test_counterexamples_are_refused_in_a_sentence(kind, argument, value, words):
    with pytest.raises(ValueError, match=rf"^{argument}=.* cannot be taken; give .*{words}"):
        kind(**{argument: value})


def test_options_of_a_choice_have_names():
    with pytest.raises(ValueError, match=r"recipe=\{'x': 1\} has no options by name"):
        CutNet("resnet18", recipe={"x": 1})


def test_a_tensor_of_one_number_is_that_number():
    data = DigitsDataModule(limit_train=torch.tensor(20), batch_size=np.int64(5))
    assert (data.limit_train, type(data.limit_train), type(data.batch_size)) == (20, int, int)
    assert PrimeNet(1, (8, 8), 3, channels=torch.tensor(4), reduce_channels=2).hparams["channels"] == 4


def test_annotations_of_a_users_class_are_his_own_business():
    class Mine(PrimeNet):
        def __init__(self, width: int = "wide", **options) -> None:  # type: ignore[assignment]
            super().__init__(**options)

    assert Mine(width=1.5, in_channels=1, image_size=(8, 8), num_classes=3).num_classes == 3
    with pytest.raises(ValueError, match="num_classes='x' cannot be taken"):
        Mine(num_classes="x")


def test_what_a_constructor_names_is_not_compared_with_its_parents_words():
    """The command gives every argument, also those that are None by default; `LocalLearner`'s optimizer is none."""
    PrimeNet(optimizer=None, channels=2, head_channels=2)
    with pytest.raises(ValueError, match="lr='1' cannot be taken; give a number or None"):
        PrimeNet(optimizer=None, lr="1")
