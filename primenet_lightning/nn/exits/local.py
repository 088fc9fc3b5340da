"""Local classifiers as exits: networks of stages have them for free, as they were trained."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from primenet_lightning.nn.cutting.network import CutNetwork, Segment
from primenet_lightning.nn.exits.network import State
from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.prime.block import PrimeBlock
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


class _BlockExit(_LocalExit):
    """A block leaves by the classifier of its routed capsule; the projection is for those that go on."""

    def __init__(self, block: PrimeBlock, choice: int) -> None:
        super().__init__()
        self.block = block
        self.choice = choice

    def answer(self, x: Tensor) -> tuple[State, Tensor]:
        feature_map, logits = self.block.capsule(self.choice)(x)
        return (x, feature_map), logits

    def go_on(self, state: State) -> Tensor:
        x, feature_map = state
        return self.block.join(x, feature_map)


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
    the network takes without labels; of a `CutNetwork` each part's is that of its objective. An image that leaves pays
    for no projection of the block that it leaves.

    Args:
        network: Whose modules are used, not copied. A route that changes later is not followed.

    Raises:
        ValueError: If the network has no local classifiers to leave by, or no route that holds for all images.

    Example:
        >>> import torch
        >>> from primenet_lightning import PrimeNet
        >>> from primenet_lightning.nn.exits.costs import exit_costs
        >>> network = PrimeNet(depth=2).network.eval()
        >>> exits, x = LocalExits(network), torch.randn(2, 1, 8, 8)
        >>> exits.num_exits, torch.equal(exits(x)[-1], network(x))
        (3, True)
    """

    def __init__(self, network: StagedNetwork) -> None:
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
        self.exits = nn.ModuleList([*exits, _LastExit(network.stages[-1])])

    @property
    def num_exits(self) -> int:
        """How many exits there are: as many as stages."""
        return len(self.exits)

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
        """Run a stage and its local classifier.

        Args:
            exit_index: Of the stage, from 0.
            state: Of the stage before, ``(batch, ...)`` each; of the first, the images alone.

        Returns:
            The state, ``(batch, ...)`` each, and the logits, ``(batch, classes)``.
        """
        x = state[0] if exit_index == 0 else self._exit(exit_index - 1).go_on(state)
        return self._exit(exit_index).answer(x)

    def _exit(self, index: int) -> _LocalExit:
        local = self.exits[index]
        assert isinstance(local, _LocalExit)
        return local


def _exits_of_blocks(network: PrimeNetwork) -> Sequence[_LocalExit]:
    """One a block, on the route."""
    for block in network.prime_blocks:
        if not block.router.chooses:
            raise ValueError(
                f"{block.name} has router={block.router.name!r}, which chooses no capsule for all images whose "
                "classifier they could leave by; use a router that does, such as 'least_loss'"
            )
    route = network.inference_route()
    return [_BlockExit(block, choice) for block, choice in zip(network.prime_blocks, route, strict=True)]


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
