"""What `options.py` gives arguments to: the package's public classes, each with small arguments that work, and a use.

Results that users are given, such as `Cost`, and abstract classes are left out; data sets that are downloaded, too,
whose arguments are those of every data module.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

import primenet_lightning as package
from primenet_lightning import baselines, callbacks, datamodules
from primenet_lightning.nn.prime.building import Plan
from primenet_lightning.serving import EarlyExit

SIZES: Mapping[str, Any] = {"in_channels": 1, "image_size": (8, 8), "num_classes": 3}
SMALL = {**SIZES, "reduce_channels": 2, "channels": 4, "projection_channels": 3, "head_channels": 5}
MAP = {"in_channels": 2, "map_size": (8, 8), "num_classes": 3}


Given = Mapping[str, Any]
"""Arguments of a constructor, by name."""


class Subject(NamedTuple):
    """What is given arguments.

    Attributes:
        kind: A class.
        base: Arguments with which it works.
        use: Uses an object of it; the second argument are those that it was made of.
    """

    kind: Callable[..., Any]
    base: Mapping[str, Any]
    use: Callable[[Any, Mapping[str, Any]], Any]


class Made(NamedTuple):
    """An argument that each case needs for itself, since it is changed by use."""

    make: Callable[[], Any]


def subjects() -> list[Subject]:
    """All subjects."""
    return [*models(), *networks(), *layers(), *training(), *watching(), *data()]


def models() -> list[Subject]:
    """Those that a Trainer trains, each small."""
    small_exits = {**SIZES, "exits": 2, "scales": 2, "channels": 4, "growth": 2, "exit_channels": 4}
    return [
        Subject(package.PrimeNet, SMALL, train_a_step),
        Subject(package.PrimeNet, {**SMALL, "depth": 3, "pool_every": 9, "router": "commit"}, train_a_step),
        Subject(package.CutNet, {**SIZES, "backbone": "resnet18", "at": ["layer3"]}, train_a_step),
        Subject(package.CutNet, {**SIZES, "backbone": "resnet20", "parts": 2}, train_a_step),
        Subject(package.LinearProbe, {"num_features": 4, "num_classes": 3}, train_a_step),
        Subject(baselines.OneScale, SIZES, train_a_step),
        Subject(baselines.CifarResNet20, SIZES, train_a_step),
        Subject(baselines.ResNet50, SIZES, train_a_step),
        Subject(baselines.TargetResNet, {**SIZES, "depth": 8}, train_a_step),
        Subject(baselines.OneNet, {**SIZES, "depth": 8, "ramp_epochs": 1}, train_a_step),
        Subject(baselines.MultiExit, {**SIZES, "exits": 2, "layers": 1, "channels": 4, "growth": 2}, train_a_step),
        Subject(baselines.MSDNet, small_exits, train_a_step),
        Subject(
            baselines.IMTA, small_exits, lambda model, given: learn(model.network)
        ),  # a fit begins with another run
        Subject(baselines.CondenseNet, {**SIZES, "layers": [1, 1], "growth": [8, 8]}, train_a_step),
        Subject(baselines.RNPNet, {**SIZES, "widths": (4, 8), "pool_after": (1,)}, train_a_step),
        Subject(baselines.DTRAMNet, {**SIZES, "steps": 2, "patch": 4, "glimpse_width": 8, "width": 8}, train_a_step),
    ]


def networks() -> list[Subject]:
    """Networks in pure torch."""
    widths = package.architecture("compact", (8, 8))
    blocks = Made(lambda: small_plan().blocks())
    prime = {"blocks": blocks, "head": Made(lambda: small_plan().head((7, 8, 8)))}
    in_shape = {"in_shape": (1, 8, 8)}
    cuttable = Made(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)))
    condensed = baselines.condensenet.network.architecture("86", [1, 1], [8, 8])
    grey = {"in_channels": 1, "num_classes": 3}
    return [
        Subject(package.PrimeNetwork, prime, learn),
        Subject(package.EndToEndNetwork, {**prime, "blocks": Made(lambda: mixing_plan().blocks())}, learn),
        Subject(package.WholeNetwork, {"model": Made(flat_classifier), **in_shape}, learn),
        Subject(package.CutNetwork, {"model": cuttable, **in_shape, "parts": 2, "recipe": "greedy"}, learn),
        Subject(baselines.MSDNetwork, grey, answer),
        Subject(baselines.MultiExitNetwork, {**grey, "exits": 2}, answer),
        Subject(baselines.NativeEnsemble, {**grey, "depth": 8}, answer),
        Subject(baselines.CondenseNetwork, {**grey, "shape": condensed}, answer),
        Subject(baselines.ResNet20, {"in_channels": 1, "classes": 3}, answer),
        Subject(
            baselines.OneScaleNetwork,
            {"in_shape": (1, 8, 8), "num_classes": 3, "kernel_size": 3, "widths": widths},
            answer,
        ),
    ]


def layers() -> list[Subject]:
    """Capsules, classifiers and routers."""
    capsule = {**SIZES, "kernel_size": 3, "reduce_channels": 2, "channels": 4}
    block = {"in_shape": (1, 8, 8), "capsules": Made(small_capsules), "projection": None}
    parts = {"features": Made(lambda: nn.Conv2d(1, 4, 3)), "classifier": Made(lambda: nn.Linear(6, 3))}
    widths = {"reduce_channels": 2, "channels": 4, "projection_channels": 3, "head_channels": 5}
    return [
        Subject(package.Architecture, {**widths, "local_classifier": "flatten", "stride": 1}, build_and_learn),
        Subject(package.PrimeBlock, block, learn_in_a_block),
        Subject(package.Capsule, parts, answer),
        Subject(package.ConvCapsule, capsule, answer),
        Subject(package.Projection, {"in_channels": 2, "channels": 3}, answer),
        Subject(package.ClassifierHead, {**MAP, "channels": 4}, answer),
        Subject(package.FlattenClassifier, MAP, answer),
        Subject(package.PooledClassifier, {"in_channels": 2, "num_classes": 3}, answer),
    ]


def training() -> list[Subject]:
    """What steps, and what says when."""
    parameters = Made(lambda: [nn.Parameter(torch.ones(2))])
    two = Made(lambda: {"a": torch.optim.SGD([nn.Parameter(torch.ones(2))]), "b": torch.optim.SGD(lone_parameter())})
    return [
        Subject(package.PaperAdam, {"params": parameters}, step),
        Subject(package.CompositeOptimizer, {"optimizers": two}, step),
        Subject(package.Rhythm, {}, lambda rhythm, given: run_in(rhythm)),
        Subject(package.StageRunner, {"network": Made(small_network)}, run_a_batch),
        Subject(package.LocalPipeline, {}, begin_a_trainer),
        Subject(EarlyExit, {"model": Made(small_model)}, answer_early),
    ]


def watching() -> list[Subject]:
    """Callbacks and a logger, each in a fit."""
    folder = {"folder": Made(new_folder)}
    every = [
        callbacks.CapsuleLossCurves,
        callbacks.ConfusionAndErrors,
        callbacks.FeatureMaps,
        callbacks.RoutingMonitor,
        callbacks.LastCheckpoint,
    ]
    bare = [callbacks.AveragedWeights, callbacks.Lookahead, callbacks.GracefulStop, callbacks.WhitenFirstLayer]
    return [
        *(Subject(kind, folder, fit_with) for kind in every),
        *(Subject(kind, {}, fit_with) for kind in bare),
        Subject(callbacks.FeatureTSNE, {**folder, "samples": 20, "perplexity": 3.0, "every_n_epochs": 1}, fit_with),
        Subject(callbacks.SoftFilterPruning, {"rate": 0.5}, fit_with),
        Subject(callbacks.ResumableCSVLogger, folder, fit_with),
    ]


def data() -> list[Subject]:
    """Data modules and their parts."""
    pictures = Made(lambda: (torch.zeros(6, 1, 4, 4, dtype=torch.uint8), torch.arange(6) % 2))
    pairs = Made(lambda: [(torch.full((1, 4, 4), 20 * i, dtype=torch.uint8), i % 2) for i in range(10)])
    normalize = datamodules.Normalize((0.5,), (0.5,))
    sizes = {"picture_size": (8, 8), "image_size": (4, 4)}
    loaded = {"dataset": Made(lambda: datamodules.ImageTensors(*pictures.make()))}
    return [
        Subject(datamodules.DigitsDataModule, {}, read_a_batch),
        Subject(
            datamodules.DatasetsDataModule, {"train": pairs, "test": pairs, "validation_fraction": 0.2}, read_a_batch
        ),
        Subject(datamodules.FolderDataModule, {"root": Made(picture_folder), "image_size": 8}, read_a_batch),
        Subject(datamodules.MNISTDataModule, {"download": False, "limit_train": 50}, lambda module, given: None),
        Subject(datamodules.Augment, {"crop": 1}, augment),
        Subject(datamodules.Normalize, {"mean": (0.5,), "std": (0.5,)}, lambda change, given: change(pixels(given))),
        Subject(datamodules.Preprocess, {"normalize": normalize, **sizes}, lambda change, given: change(pixels(given))),
        Subject(datamodules.EpochBatchSampler, {"length": 8, "batch_size": 4}, lambda batches, given: list(batches)),
        Subject(datamodules.OrderedBatchSampler, {"length": 8, "batch_size": 4}, lambda batches, given: list(batches)),
        Subject(
            datamodules.ImageTensors,
            {"images": Made(lambda: pictures.make()[0]), "labels": Made(lambda: pictures.make()[1])},
            lambda images, given: images[torch.tensor([0, 1])],
        ),
        Subject(
            datamodules.BatchLoader,
            {**loaded, "sampler": Made(lambda: datamodules.EpochBatchSampler(6, 3))},
            lambda batches, given: list(batches),
        ),
        Subject(
            datamodules.ImageFiles,
            {"paths": Made(picture_files), "image_size": (10, 10), "in_channels": 1},
            lambda files, given: [files[0], len(files)],
        ),
    ]


# -- small things ------------------------------------------------------------------------------------------------------


def lone_parameter() -> list[nn.Parameter]:
    """One to optimize."""
    return [nn.Parameter(torch.ones(2))]


def flat_classifier() -> nn.Module:
    """The smallest classifier."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Linear(5, 3))


def small_plan(widths: Any = None) -> Plan:
    """Of a network of one block."""
    if widths is None:
        widths = package.Architecture(2, 4, 3, 5, "flatten", stride=1)
    return Plan(widths, (1, 8, 8), 3)


def mixing_plan() -> Plan:
    """Of a network that can be trained as a whole."""
    return small_plan(package.Architecture(2, 4, 3, 5, "flatten", stride=1, router="mean"))


def small_capsules() -> Mapping[str, Any]:
    """Of one block."""
    return small_plan().capsules(0, (1, 8, 8))


def small_network() -> Any:
    """The network of `small_plan`."""
    return package.PrimeNetwork(small_plan().blocks(), small_plan().head((7, 8, 8)))


def small_model() -> Any:
    """A model whose images may leave early."""
    return package.PrimeNet(**SMALL, depth=2, pool_every=9)


def pixels(arguments: Given) -> Tensor:
    """Pictures."""
    size = arguments.get("picture_size", (8, 8))
    return torch.randint(256, (4, len(arguments.get("mean", (0.5,))), *size), dtype=torch.uint8)


_FOLDERS: list[Any] = []


def new_folder() -> str:
    """An empty one, which is gone when the program ends."""
    _FOLDERS.append(tempfile.TemporaryDirectory())
    return str(_FOLDERS[-1].name)


def picture_files() -> list[str]:
    """Two pictures."""
    folder = Path(picture_folder())
    return [str(path) for path in sorted(folder.rglob("*.png"))[:2]]


def picture_folder() -> str:
    """Two classes of pictures; made once."""
    if "pictures" not in _MADE:
        folder = new_folder()
        for number in range(20):
            path = Path(folder, ("cat", "dog")[number % 2], f"{number}.png")
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (10, 10), (number, 0, 0)).save(path)
        _MADE["pictures"] = folder
    return _MADE["pictures"]


_MADE: dict[str, str] = {}


# -- uses --------------------------------------------------------------------------------------------------------------


def trainer_with(watcher: Callback | Logger | None = None) -> Trainer:
    """A quiet Trainer of one step."""
    watchers: list[Callback] = []
    if isinstance(watcher, Callback):
        watchers.append(watcher)
    return Trainer(
        max_epochs=1,
        limit_train_batches=1,
        limit_val_batches=1,
        accelerator="cpu",
        logger=watcher if isinstance(watcher, Logger) else False,
        callbacks=watchers,
        enable_checkpointing=isinstance(watcher, Checkpoint),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=new_folder(),
    )


def train_a_step(model: Any, arguments: Given = MappingProxyType({})) -> None:
    """Train on a batch of four images."""
    images = torch.rand(4, *model.network.in_shape, generator=torch.Generator().manual_seed(0))
    one_batch: Any = [(images, torch.arange(4) % 2)]
    batches: DataLoader[Any] = DataLoader(one_batch, batch_size=None)
    trainer_with().fit(model, batches)
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ArithmeticError(f"{name} is not finite after a step")


def fit_with(watcher: Any, arguments: Given = MappingProxyType({})) -> None:
    """Train on a few of the digits, with a callback or a logger, and test."""
    model: Any = package.PrimeNet(**{**SMALL, "num_classes": 10})
    if isinstance(watcher, callbacks.WhitenFirstLayer):
        model = package.CutNet("whitened", 1, (8, 8), parts=2, backbone_options={"widths": [4, 4]})
    digits = datamodules.DigitsDataModule(limit_train=40, batch_size=40)
    trainer = trainer_with(watcher)
    trainer.fit(model, digits)
    trainer.test(model, digits, verbose=False)


def read_a_batch(module: LightningDataModule, arguments: Given = MappingProxyType({})) -> None:
    """Set a data module up, and take its first batch as a Trainer does."""
    module.prepare_data()
    module.setup("fit")
    for batches in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        for batch in batches:
            module.on_after_batch_transfer(batch, 0)
            break


def augment(change: Any, arguments: Given = MappingProxyType({})) -> None:
    """Change pictures."""
    change.set_epoch(0, 0)
    change(pixels(arguments))


def descend(losses: Iterable[Tensor]) -> None:
    """Go backward."""
    total = torch.stack([loss.float().sum() for loss in losses]).sum()
    total.backward()  # type: ignore[no-untyped-call]


def learn(network: Any, arguments: Given = MappingProxyType({})) -> None:
    """Run a network's stages on a batch."""
    run_a_batch(package.StageRunner(network))


def run_in(rhythm: Any) -> None:
    """Step in a rhythm."""
    network = small_network()
    optimizers = {name: torch.optim.SGD(learner) for name, learner in network.learners().items()}
    run_a_batch(package.StageRunner(network, package.CompositeOptimizer(optimizers), rhythm))


def run_a_batch(runner: Any, arguments: Given = MappingProxyType({})) -> None:
    """Go forward and backward on a batch."""
    runner.run(torch.rand(4, 1, 8, 8), torch.arange(4) % 2)


def learn_in_a_block(block: Any, arguments: Given = MappingProxyType({})) -> None:
    """Learn from local losses."""
    out = block(torch.rand(4, *block.in_shape), torch.arange(4) % 2)
    descend(out.losses.values())


def build_and_learn(widths: Any, arguments: Given = MappingProxyType({})) -> None:
    """Build a network of these widths, and learn."""
    plan = small_plan(widths)
    blocks = plan.blocks()
    learn(package.PrimeNetwork(blocks, plan.head(blocks[-1].out_shape)))


def answer(layer: nn.Module, arguments: Given) -> None:
    """Go forward and backward from images or feature maps."""
    size = arguments.get("image_size", arguments.get("map_size", (8, 8)))
    shape = arguments.get("in_shape", (arguments.get("in_channels", 1), *size))
    outputs = layer.train()(torch.rand(4, *shape, requires_grad=True))
    if isinstance(outputs, Tensor):
        outputs = [outputs]
    descend(outputs)


def step(optimizer: Any, arguments: Given = MappingProxyType({})) -> None:
    """Step once."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def begin_a_trainer(strategy: Any, arguments: Given = MappingProxyType({})) -> None:
    """Hand a strategy to a Trainer of one process."""
    Trainer(strategy=strategy, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)


def answer_early(early: Any, arguments: Given = MappingProxyType({})) -> None:
    """Classify a batch."""
    early.classify(torch.rand(4, 1, 8, 8))
