"""Arguments of the wrong type are refused before a constructor runs."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from primenet_lightning import (
    Architecture,
    Capsule,
    CompositeOptimizer,
    ConvCapsule,
    CutNet,
    CutNetwork,
    FlattenClassifier,
    LocalPipeline,
    PaperAdam,
    PrimeBlock,
    PrimeNet,
    PrimeNetwork,
    Projection,
    Rhythm,
    StageRunner,
    WholeNetwork,
)
from primenet_lightning.argument_types import fits, in_words
from primenet_lightning.baselines import MultiExitNetwork, NativeEnsemble, OneScale, OneScaleNetwork, ResNet20
from primenet_lightning.callbacks import AveragedWeights, FeatureMaps, LastCheckpoint, Lookahead, SoftFilterPruning
from primenet_lightning.datamodules import (
    Augment,
    BatchLoader,
    DigitsDataModule,
    EpochBatchSampler,
    ImageTensors,
    Normalize,
    OrderedBatchSampler,
    Preprocess,
)
from primenet_lightning.nn.prime.architecture import architecture
from primenet_lightning.nn.prime.capsules import conv_capsules
from primenet_lightning.serving import EarlyExit


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
        *((1.5, torch.nn.Module), ((8, 8), str | torch.nn.Module), ([], torch.Tensor)),
        *(({"x": 1}, Mapping[str, torch.nn.Module]), (True, Literal[False]), (2, Literal[1, "a"])),
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


COMPACT = architecture("compact", (8, 8))
NETWORK = WholeNetwork(torch.nn.Linear(4, 3), (4,))
PIXELS = ImageTensors(torch.zeros(6, 1, 4, 4, dtype=torch.uint8), torch.arange(6) % 2)


# counterexamples of benchmarks/options.py with all public classes, each of a kind of its own
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        # types, where only models and data were looked at
        (lambda: FlattenClassifier("x", (8, 8), 3), "in_channels='x' cannot be taken; give a whole number"),
        (lambda: Lookahead(every="x"), "every='x' cannot be taken; give a whole number"),
        (lambda: FeatureMaps(images=None), "images=None cannot be taken; give a whole number"),
        (lambda: LastCheckpoint(folder=1.5), "folder=1.5 cannot be taken; give a text or a path"),
        (lambda: Augment(crop=[1]), r"crop=\[1\] cannot be taken; give a whole number"),
        (lambda: EpochBatchSampler("x", 4), "length='x' cannot be taken; give a whole number"),
        (lambda: Architecture(2, 4, 3, "x", "flatten", 1), "head_channels='x' cannot be taken; give a whole number"),
        (lambda: Rhythm(step=1), "step=1 cannot be taken; give 'stage', 'batch'"),
        (lambda: LocalPipeline(begins=1), r"begins=1 cannot be taken; give a list of \(a text\)"),
        (lambda: SoftFilterPruning(b"x"), "rate=b'x' cannot be taken; give a number"),
        (lambda: AveragedWeights(True), "decay=True cannot be taken; give a number"),
        # plain values where an object is due
        (lambda: CutNet(backbone=1.5), "backbone=1.5 cannot be taken; give a text or Module"),
        (lambda: CutNet(backbone=(8, 8)), r"backbone=\(8, 8\) cannot be taken"),
        (lambda: WholeNetwork(3, (1, 8, 8)), "model=3 cannot be taken; give Module"),
        (lambda: EarlyExit("x"), "model='x' cannot be taken; give LocalLearner"),
        (lambda: Preprocess({}, (8, 8), (8, 8)), "normalize={} cannot be taken; give Normalize"),
        (lambda: StageRunner(torch.nn.Module(), exchange=float("inf")), "exchange=inf cannot be taken; give Exchange"),
        (lambda: PrimeNetwork([1], torch.nn.Identity()), r"blocks=\[1\] cannot be taken; give a list of"),
        (lambda: CompositeOptimizer({"x": 1}), "optimizers={'x': 1} cannot be taken; give options by name"),
        (lambda: PrimeBlock((1, 8, 8), {"k3": 2}, None), "capsules={'k3': 2} cannot be taken; give options by name"),
        # a choice of one
        (
            lambda: BatchLoader(PIXELS, OrderedBatchSampler(6, 3), shuffle=True),
            "shuffle=True cannot be taken; give Fal",
        ),
        # none of what there has to be one
        (lambda: FlattenClassifier(-1, (8, 8), 3), "in_channels=-1 must be at least 1"),
        (lambda: FlattenClassifier(1, (0, 1), 3), r"map_size=\(0, 1\) must be at least 1 pixel high and wide"),
        (lambda: FlattenClassifier(1, (8,), 3), r"map_size=\(8,\) is no size; give height and width"),
        (lambda: MultiExitNetwork(1, -1), "num_classes=-1 must be at least 1"),
        (lambda: NativeEnsemble(0, 3), "in_channels=0 must be at least 1"),
        (lambda: ResNet20(1, 0), "classes=0 must be at least 1"),
        (lambda: PrimeNet(stride=0), "stride=0 must be at least 1"),
        (lambda: PrimeNet(head_channels=0), "head_channels=0 must be at least 1"),
        (lambda: Projection(1, 0), "channels=0 must be at least 1"),
        (lambda: ConvCapsule(1, (8, 8), 3, 3, reduce_channels=-1), "reduce_channels=-1 must be at least 0"),
        (lambda: conv_capsules(1, (8, 8), 3, kernel_sizes=()), r"kernel_sizes=\(\) names no scale"),
        (
            lambda: OneScaleNetwork((1, 8, 8), 3, -1, architecture("compact", (8, 8))),
            "kernel_size=-1 must be at least 1",
        ),
        (lambda: CutNetwork(torch.nn.ReLU(), (-1,)), r"in_shape=\(-1,\) is no shape; give channels, height and width"),
        (lambda: WholeNetwork(torch.nn.ReLU(), []), r"in_shape=\(\) is no shape"),
        # too few parts
        (
            lambda: OneScaleNetwork((3, 5), 3, 3, COMPACT),
            r"in_shape=\(3, 5\) has 2 parts; give \(a whole number, a whole number, a whole number\)",
        ),
        # what torch and Python have other words for
        (lambda: PaperAdam([torch.nn.Parameter(torch.ones(2))], lr=(8, 8)), r"lr=\(8, 8\) cannot be taken"),
        (lambda: PaperAdam([torch.nn.Parameter(torch.ones(2))], betas=(8, 8)), r"PaperAdam was given .*betas=\(8, 8\)"),
        (lambda: PaperAdam([torch.nn.Parameter(torch.ones(2))], amsgrad=[]), r"amsgrad=\[\] cannot be taken"),
        (lambda: PaperAdam(3), "PaperAdam was given these params"),
        (lambda: Normalize([0.5, 1.0], [0.5]), r"mean=\(0.5, 1.0\) and std=\(0.5,\) do not fit each other"),
        (lambda: Normalize([0.5], [0.0]), r"std=\(0.0,\) must be above 0"),
        (lambda: Normalize([float("nan")], [0.5]), r"mean=\(nan,\) and std=\(0.5,\) must be finite"),
        (lambda: EpochBatchSampler(0, 4), "length=0 must be at least 1 image"),
        (lambda: EpochBatchSampler(8, 4, num_replicas=0), "num_replicas=0 must be at least 1"),
        (lambda: EpochBatchSampler(8, 4, seed=-1), "seed=-1 is out of range"),
        (lambda: EpochBatchSampler(8, 4, start_batch=-1), "start_batch=-1 must be at least 0"),
        (
            lambda: StageRunner(NETWORK, rhythm=Rhythm("stage", "stage", "stage")),
            "step='stage' steps the learners of one",
        ),
        (
            lambda: StageRunner(NETWORK, clip=1.0),
            "clip=1.0 clips the gradient of each learner by itself",
        ),
        (lambda: PrimeNet(lr=float("inf")), "lr=inf must be positive and finite"),
        (lambda: OneScale(gradient_clip_val=float("nan")), "gradient_clip_val=nan must be positive"),
        (lambda: PrimeNet(depth=3), "use larger images, a smaller depth, a larger pool_every, or a stride of 1"),
    ],
)
def test_what_no_class_can_be_made_of(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_pictures_of_a_size_given_as_a_list_are_resized():
    """A list was compared with a tuple, and so was never the size of the pictures."""
    preprocess = Preprocess(Normalize((0.5,), (0.5,)), picture_size=[4, 6], image_size=[2, 3])
    assert preprocess(torch.zeros(2, 1, 4, 6, dtype=torch.uint8)).shape == (2, 1, 2, 3)


def test_a_class_tells_what_it_takes():
    assert list(inspect.signature(FlattenClassifier).parameters) == ["in_channels", "map_size", "num_classes"]
    assert str(inspect.signature(Rhythm).parameters["backward"]).endswith("= 'stage'")


def test_arguments_of_a_users_own_constructor_are_not_taken_for_those_of_its_base():
    class Dilated(Capsule):
        def __init__(self, in_shape, num_classes):
            channels = in_shape[0]
            classifier = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
            super().__init__(nn.Conv2d(channels, 4, 3), classifier)

    class Handing(Capsule):
        def __init__(self, *args, width=4, **kwargs):
            self.width = width
            super().__init__(*args, **kwargs)

    assert isinstance(Dilated((1, 8, 8), 3).features, nn.Conv2d)
    assert Handing(nn.Identity(), nn.Flatten(), width=5).width == 5
    with pytest.raises(ValueError, match="features=3 cannot be taken"):
        Handing(3, nn.Flatten())
