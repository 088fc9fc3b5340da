"""Rows of processes for tests of the pipeline: what one process of a row, and what one process alone, makes of it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn

from primenet_lightning import PrimeNet
from primenet_lightning.nn.cutting.network import CutNetwork
from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.pipeline.line import Line
from primenet_lightning.pipeline.section import PipelineSection
from primenet_lightning.training.optimizers import CompositeOptimizer
from primenet_lightning.training.random_numbers import KeyedRandom
from primenet_lightning.training.runner import StageRunner

STEPS = 60


def convolutional() -> StagedNetwork:
    """Four stages with batch norm and dropout, the last one the head's."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 2
    for width in (4, 6, 6, 8):
        layers.append(nn.Sequential(nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.2)))
        channels = width
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 8 * 8, 3))
    return CutNetwork(model, (2, 16, 16), at=["1", "2", "3"], recipe="greedy")


def prime() -> StagedNetwork:
    """Four blocks of capsules that commit and prune, one after the other."""
    torch.manual_seed(0)
    options: dict[str, Any] = dict(router="commit", router_options={"warm_up": 8}, pool_every=9)
    return PrimeNet(2, (8, 8), 3, depth=4, channels=4, head_channels=4, **options).network


NETWORKS: dict[str, Callable[[], StagedNetwork]] = {"convolutional": convolutional, "prime": prime}


def batches(network: StagedNetwork) -> list[tuple[Tensor, Tensor]]:
    """Batches of six, the last ones larger and smaller."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for size in [6] * (STEPS - 3) + [9, 14, 2]:
        images = torch.randn(size, *network.in_shape, generator=generator)
        made.append((images, torch.randint(3, (size,), generator=generator)))
    return made


def learned(runner: StageRunner) -> list[Any]:
    """Train for all batches, pruning where stages have decided; what each batch came to."""
    optimizer = runner.optimizer
    assert isinstance(optimizer, CompositeOptimizer)
    records = []
    for step, (x, target) in enumerate(batches(runner.network)):
        if runner.network.decided:
            optimizer.drop(runner.network.prune())
        assert runner.random is not None
        runner.random.step = step
        records.append(runner.step(x, target)[:3])
    return records


def composite(learners: dict[str, list[nn.Parameter]]) -> CompositeOptimizer:
    return CompositeOptimizer({name: torch.optim.Adam(part, 1e-2) for name, part in learners.items()})


def alone(name: str) -> tuple[list[Any], dict[str, Any]]:
    """One process."""
    network = NETWORKS[name]()
    runner = StageRunner(network, composite(network.learners()), random=KeyedRandom(5))
    return learned(runner), network.state_dict()


def in_a_row(name: str, begins: list[int]) -> tuple[list[Any], dict[str, Any]] | None:
    """One process of a row; None where there are more processes than the row has."""
    network = NETWORKS[name]()
    section = join(network, begins)
    if section is None:
        return None
    optimizer = composite(section.learners())
    runner = StageRunner(network, optimizer, section=section, random=KeyedRandom(5))
    records = learned(runner)
    section.settle()
    section.line.close()
    return records, own_state(section)


def join(network: StagedNetwork, begins: list[int]) -> PipelineSection | None:
    """This process's section of a row, the last stages on rank 0."""
    ranks = list(range(len(begins)))
    group = distributed.new_group(ranks)
    rank = distributed.get_rank()
    if rank not in ranks:
        return None
    return PipelineSection(network, begins, Line(ranks[::-1], rank, group))


def own_state(section: PipelineSection) -> dict[str, Any]:
    """What this process has trained, by name."""
    own: set[int] = set()
    for stage in section.stages:
        own.update(id(tensor) for tensor in [*stage.parameters(), *stage.buffers()])
    state = section.network.state_dict(keep_vars=True)
    extra = {name: value for name, value in state.items() if name.endswith("_extra_state")}
    return extra | {name: value.detach() for name, value in state.items() if id(value) in own}
