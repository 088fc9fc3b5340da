"""The end-to-end twin: a PrimeNetwork trained by backpropagation, to compare local learning with."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from primenet_lightning.nn.losses import cross_entropy
from primenet_lightning.nn.prime.block import OnLoss, PrimeBlock
from primenet_lightning.nn.prime.network import HEAD, Evaluation, PrimeNetwork, Stage
from primenet_lightning.nn.prime.routes import Route
from primenet_lightning.training.exchange import Average


class EndToEndNetwork(PrimeNetwork):
    """The same blocks and head, all trained by the head's loss alone; its gradient crosses every block.

    Built from the same parts it starts from the same weights as the local network. What serves local learning only is
    taken out: the local classifiers, those of projections, and the local losses. What is left, the network that
    predicts, has the same parameters in both.

    Args:
        *args: Of `PrimeNetwork`.
        **kwargs: Of `PrimeNetwork`.

    Raises:
        ValueError: If a router needs local losses, which there are none of, or as `PrimeNetwork`.

    Example:
        >>> from primenet_lightning.nn.prime.architecture import Architecture
        >>> small = Architecture(4, 8, 8, 16, "pooled", stride=1, router="concatenate")
        >>> twin = EndToEndNetwork.build(1, (28, 28), 10, small, depth=2)
        >>> twin.loss_names, list(twin.learners())
        (['head'], ['head'])
    """

    local = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for block in self.prime_blocks:
            if block.router.needs_losses and (len(block.capsules) > 1 or block.router.learns):
                raise ValueError(
                    f"router={block.router.name!r} needs local losses, of which local=False has none; "
                    "use 'concatenate' or 'mean', or one capsule a block"
                )
            block.projection_classifier = None
            for capsule in block.in_order:
                capsule.classifier, capsule.loss = nn.Identity(), None

    @property
    def loss_names(self) -> list[str]:
        """The head's loss is the only one."""
        return [HEAD]

    @property
    def classifier_names(self) -> list[str]:
        """The head is the only one that classifies."""
        return [HEAD]

    @property
    def capsule_names(self) -> list[list[str]]:
        """None: no capsule learns by itself, none is routed."""
        return []

    def learners(self) -> dict[str, list[nn.Parameter]]:
        """One learner, called ``head``, with every parameter."""
        return {HEAD: list(self.parameters())}

    def features(self, x: Tensor, route: Route | None = None) -> Tensor:
        """Compute what the head sees; the graph is whole.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            route: Not used.

        Returns:
            ``(batch, channels, height, width)``.
        """
        for i, block in enumerate(self.prime_blocks):
            x = _through(block, self._enter(x, i))
        return x

    def stages(
        self, x: Tensor, target: Tensor, average: Average | None = None, on_loss: OnLoss | None = None
    ) -> Iterator[Stage]:
        """Give one stage, the head's, whose graph reaches back to the images.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            target: Class indices, ``(batch,)``.
            average: Averages the loss, ``(1,)``, over several processes, so that all see the same number.
            on_loss: Takes the loss, a scalar, as soon as it is known; that of the stage then has no graph.

        Yields:
            The stage.

        Raises:
            NonFiniteError: If the loss is NaN or infinite.
        """
        yield self._head_stage(self.features(x), target, average, on_loss)

    @torch.no_grad()
    def evaluate(self, x: Tensor, target: Tensor, route: Route | None = None) -> Evaluation:
        """Give the head's verdict, the only one there is; arguments as in `PrimeNetwork`."""
        logits = self(x)
        return Evaluation({HEAD: cross_entropy(logits, target)}, {HEAD: logits}, ())


def _through(block: PrimeBlock, x: Tensor) -> Tensor:
    """A block without a cut: maps and projection of its input."""
    block.check_input(x)
    chosen = block.router.infer(x, [capsule.features for capsule in block.in_order], 0)
    return chosen if block.projection is None else torch.cat([chosen, block.projection(x)], dim=1)
