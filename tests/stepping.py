"""A batch through the stages of a network by a plain loop, to compare the engine with."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.numbers import WHOLE, Share, on_host
from primenet_lightning.nn.stages import logits_of, losses_of


class Ran(NamedTuple):
    """A stage after its forward pass; the route is None where there is no choice."""

    name: str
    losses: dict[str, Tensor]
    logits: dict[str, Tensor]
    values: dict[str, float]
    route: int | None


def run_stages(network: StagedNetwork, x: Tensor, target: Tensor, share: Share = WHOLE) -> Iterator[Ran]:
    """Stage by stage; whoever drops what is yielded after its backward frees its activations."""
    route = []
    for stage in network.stages:
        outputs = list(stage.run_learners(x, target, share))
        values = on_host(losses_of(outputs), share)
        choice = stage.choose(x, outputs, list(values.values()), share)
        x = stage.hand_on(x, outputs, choice)
        ran = Ran(stage.name, losses_of(outputs), logits_of(outputs), values, choice if stage.chooses else None)
        if stage.chooses:
            route.append(choice)
        del outputs
        yield ran
        del ran
    network.learned(tuple(route))
