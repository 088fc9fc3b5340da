"""Any module as a network of one stage, trained end to end by the same engine."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from primenet_lightning.nn.losses import cross_entropy
from primenet_lightning.nn.names import HEAD
from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.numbers import WHOLE, Share
from primenet_lightning.nn.stages import LearnerOutput, Stage, StageRow


def itself(output: Any) -> Any:
    """Take a module's output for the logits.

    Args:
        output: Of a module, ``(batch, classes)``.

    Returns:
        The same.
    """
    return output


@runtime_checkable
class Deployable(Protocol):
    """A model that is another one, mostly a lighter one, when its training is over."""

    def deployed(self) -> nn.Module:
        """Give the model that predicts then, from images to logits; this one is left as it is."""
        ...


class Whole(Stage):
    """A module with one loss, which trains all of it.

    Args:
        module: From images to logits, or to what ``loss`` takes.
        loss: From the module's output and targets, ``(batch,)``, to a scalar.
        logits: From the module's output to the network's logits, ``(batch, classes)``; None where it does not classify.
        name: Of the stage and its learner.

    Example:
        >>> import torch
        >>> stage = Whole(nn.Linear(4, 3))
        >>> (output,) = stage.run_learners(torch.zeros(2, 4), torch.tensor([0, 2]))
        >>> output.learner, output.logits.shape, output.loss.requires_grad
        ('head', torch.Size([2, 3]), True)
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[Any, Tensor], Tensor] = cross_entropy,
        logits: Callable[[Any], Tensor] | None = itself,
        name: str = HEAD,
    ) -> None:
        super().__init__(name)
        self.module = module
        self.loss = loss
        self.logits = logits

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Not known: nothing follows that would have to fit."""
        return ()

    def learners(self) -> dict[str, list[nn.Parameter]]:
        """One learner, with every parameter that is not frozen."""
        return {self.name: [parameter for parameter in self.module.parameters() if parameter.requires_grad]}

    def run_learners(self, x: Tensor, target: Tensor, share: Share = WHOLE) -> Iterator[LearnerOutput]:
        """Run the module; see `Stage.run_learners`."""
        output = self.module(x)
        loss = self.loss(output, target)
        logits = None if self.logits is None else self.logits(output).detach()
        del output
        yield LearnerOutput(self.name, loss, logits, logits)

    def hand_on(self, x: Tensor, outputs: Sequence[LearnerOutput], choice: int) -> Tensor:
        """Hand on the logits, or where there are none the input: nothing follows that would look at it."""
        logits = outputs[choice].logits
        return x.detach() if logits is None else logits

    def through(self, x: Tensor, choice: int = 0) -> Tensor:
        """Run the module, and give the logits if it classifies; see `Stage.through`."""
        output: Tensor = self.module(x)
        return output if self.logits is None else self.logits(output)


class WholeNetwork(StagedNetwork):
    """A network of one stage: any module, trained end to end.

    Args:
        model: From images to logits, or to what ``loss`` takes.
        in_shape: Of one sample, without the batch.
        loss: From the model's output and targets, ``(batch,)``, to a scalar.
        logits: From the model's output to the network's logits, ``(batch, classes)``; None where it does not classify.

    Example:
        >>> import torch
        >>> network = WholeNetwork(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (1, 8, 8))
        >>> network.loss_names, network(torch.zeros(2, 1, 8, 8)).shape
        (['head'], torch.Size([2, 10]))
    """

    local = False

    def __init__(
        self,
        model: nn.Module,
        in_shape: tuple[int, ...],
        loss: Callable[[Any, Tensor], Tensor] = cross_entropy,
        logits: Callable[[Any], Tensor] | None = itself,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.logits = logits
        self._in_shape = in_shape

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Of one sample, without the batch."""
        return self._in_shape

    @property
    def stages(self) -> StageRow:
        """The one stage. It is made when it is asked for, so that the model's names in checkpoints stay its own."""
        return StageRow([Whole(self.model, self.loss, self.logits)])

    @property
    def loss_names(self) -> list[str]:
        """One: the whole network's."""
        return [HEAD]

    def deployed(self) -> StagedNetwork:
        """Give the network that predicts when training is over: another one where the model is `Deployable`."""
        if isinstance(self.model, Deployable):
            return WholeNetwork(self.model.deployed(), self.in_shape)
        return self
