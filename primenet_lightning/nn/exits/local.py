"""Local classifiers as exits: networks of stages have them for free, as they were trained."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from primenet_lightning.nn.cutting.network import CutNetwork
from primenet_lightning.nn.cutting.segments import Segment
from primenet_lightning.nn.exits.network import State
from primenet_lightning.nn.layers import at_least_float32
from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.prime.block import PrimeBlock
from primenet_lightning.nn.prime.mixing import Concatenate, Mean
from primenet_lightning.nn.prime.network import PrimeNetwork
from primenet_lightning.nn.stages import Stage


class _LocalExit(nn.Module, ABC):
    """A stage with one of its local classifiers."""

    @abstractmethod
    def answer(self, x: Tensor) -> tuple[State, Tensor]:
        """From the stage's input to what `go_on` needs, and to the logits."""

    def go_on(self, state: State) -> Tensor:
        """The next stage's input, for images that have not left."""
        (features,) = state
        return features

    def pass_by(self, x: Tensor) -> Tensor:
        """From the stage's input to the next stage's, where nobody may leave."""
        stage = next(self.children())
        assert isinstance(stage, Stage)
        return stage.through(x)


class _BlockExit(_LocalExit):
    """A block leaves by the classifier of its routed capsule; the projection is for those that go on."""

    def __init__(self, block: PrimeBlock, choice: int) -> None:
        super().__init__()
        self.block = block
        self.choice = choice

    def answer(self, x: Tensor) -> tuple[State, Tensor]:
        feature_map, logits = self.block.capsule(self.choice)(x)
        return (x, feature_map), logits

    def pass_by(self, x: Tensor) -> Tensor:
        return self.block.through(x, self.choice)

    def go_on(self, state: State) -> Tensor:
        x, feature_map = state
        return self.block.join(x, feature_map)


class _EnsembleExit(_LocalExit):
    """A block that hands on all maps leaves by the mean of its capsules' probabilities; all are computed anyway."""

    def __init__(self, block: PrimeBlock) -> None:
        super().__init__()
        self.block = block

    def answer(self, x: Tensor) -> tuple[State, Tensor]:
        maps: list[Tensor] = []
        answers: list[Tensor] = []
        for capsule in self.block.in_order:
            feature_map, logits = capsule(x)
            maps.append(feature_map)
            answers.append(at_least_float32(logits).log_softmax(1))
        mean = torch.stack(answers).logsumexp(0) - math.log(len(answers))
        return (x, self.block.router.select(x, maps, 0)), mean

    def go_on(self, state: State) -> Tensor:
        x, routed = state
        return self.block.join(x, routed)


class _SegmentExit(_LocalExit):
    """A part of a model leaves by the classifier of its objective."""

    def __init__(self, segment: Segment, classifier: nn.Module) -> None:
        super().__init__()
        self.segment = segment
        self.classifier = classifier

    def answer(self, x: Tensor) -> tuple[State, Tensor]:
        features = self.segment.through(x)
        return (features,), self.classifier(features)


class _LastExit(_LocalExit):
    """The last stage's answer."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def answer(self, x: Tensor) -> tuple[State, Tensor]:
        logits = self.stage.through(x)
        return (logits,), logits


class LocalExits(nn.Module):
    """A network of stages as one with several exits: the local classifiers on its way, and its own end.

    Nothing is trained anew. Of a `PrimeNetwork` each block's exit is the classifier of the capsule on the route that
    the network takes without labels; where a block hands on all maps (``"concatenate"``, ``"mean"``), it is the mean of
    its capsules' probabilities, whose logarithms are the logits. Of a `CutNetwork` each part's is that of its
    objective. An image that leaves pays for no projection of the block that it leaves.

    Args:
        network: Whose modules are used, not copied. A route that changes later is not followed.
        at: Indices of the stages by whose classifiers images may leave, rising; None takes all. The others' classifiers
            are not computed. The network's own end is always the last exit.

    Attributes:
        at: Indices of the stages with exits, the last one's included.

    Raises:
        ValueError: If the network has no local classifiers to leave by, or no route that holds for all images, or if
            there are no such stages.

    Example:
        >>> import torch
        >>> from primenet_lightning import PrimeNet
        >>> from primenet_lightning.nn.exits.costs import exit_costs
        >>> network = PrimeNet(depth=2).network.eval()
        >>> exits, x = LocalExits(network), torch.randn(2, 1, 8, 8)
        >>> exits.num_exits, torch.equal(exits(x)[-1], network(x))
        (3, True)
    """

    def __init__(self, network: StagedNetwork, at: Sequence[int] | None = None) -> None:
        super().__init__()
        if isinstance(network, PrimeNetwork) and network.local:
            exits = _exits_of_blocks(network)
        elif isinstance(network, CutNetwork):
            exits = _exits_of_segments(network)
        else:
            raise ValueError(
                f"network is a {type(network).__name__}, which has no local classifiers to leave by; give a "
                "PrimeNetwork or a CutNetwork, such as PrimeNet(...).network"
            )
        if at is None:
            at = range(len(exits))
        if sorted({*at} & {*range(len(exits))}) != list(at):
            raise ValueError(
                f"at={list(at)} are no stages to leave at; give indices from 0 to {len(exits) - 1}, each once, rising"
            )
        self.at = [*at, len(exits)]
        self.exits = nn.ModuleList([*exits, _LastExit(network.stages[-1])])

    @property
    def num_exits(self) -> int:
        """How many exits there are: as many as stages, where all have one."""
        return len(self.at)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Answer at every exit.

        Args:
            x: Images, ``(batch, *in_shape)``.

        Returns:
            Logits, ``(batch, classes)``, of each exit, the first one first.
        """
        state: State = (x,)
        logits: list[Tensor] = []
        for index in range(self.num_exits):
            state, answer = self.advance(index, state)
            logits.append(answer)
        return tuple(logits)

    def advance(self, exit_index: int, state: State) -> tuple[State, Tensor]:
        """Run the stages up to the exit, and its classifier.

        Args:
            exit_index: Of the exit, from 0.
            state: Of the exit before, ``(batch, ...)`` each; of the first, the images alone.

        Returns:
            The state, ``(batch, ...)`` each, and the logits, ``(batch, classes)``.
        """
        first, x = 0, state[0]
        if exit_index > 0:
            before = self.at[exit_index - 1]
            first, x = before + 1, self._exit(before).go_on(state)
        for stage in range(first, self.at[exit_index]):
            x = self._exit(stage).pass_by(x)
        return self._exit(self.at[exit_index]).answer(x)

    def _exit(self, index: int) -> _LocalExit:
        local = self.exits[index]
        assert isinstance(local, _LocalExit)
        return local


def _exits_of_blocks(network: PrimeNetwork) -> Sequence[_LocalExit]:
    """One a block, on the route."""
    route = network.inference_route()
    exits: list[_LocalExit] = []
    for block, choice in zip(network.prime_blocks, route, strict=True):
        if isinstance(block.router, Concatenate | Mean):
            exits.append(_EnsembleExit(block))
        elif block.router.chooses:
            exits.append(_BlockExit(block, choice))
        else:
            raise ValueError(
                f"{block.name} has router={block.router.name!r}, which chooses no capsule for all images whose "
                "classifier they could leave by; use a router that does, such as 'least_loss'"
            )
    return exits


def _exits_of_segments(network: CutNetwork) -> Sequence[_LocalExit]:
    """One a part but the last."""
    exits: list[_LocalExit] = []
    for stage in network.stages[:-1]:
        assert isinstance(stage, Segment)
        classifier = getattr(stage.objective, "classifier", None)
        if not isinstance(classifier, nn.Module):
            raise ValueError(
                f"{stage.name} learns from a {type(stage.objective).__name__}, which has no classifier to leave by; "
                "give the objective an attribute 'classifier', from features to logits"
            )
        exits.append(_SegmentExit(stage, classifier))
    return exits
