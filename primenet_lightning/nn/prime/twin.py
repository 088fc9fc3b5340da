"""The end-to-end twin: a PrimeNetwork trained by backpropagation, to compare local learning with."""

from typing import Any

from torch import Tensor, nn

from primenet_lightning.nn.names import HEAD
from primenet_lightning.nn.network import Evaluation
from primenet_lightning.nn.prime.network import PrimeNetwork
from primenet_lightning.nn.stages import Route, StageRow
from primenet_lightning.nn.whole import Whole


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
                    "use 'concatenate' or 'mean', or one capsule per block"
                )
            block.projection_classifier = None
            for capsule in block.in_order:
                capsule.classifier = nn.Identity()
                capsule.loss = None

    @property
    def stages(self) -> StageRow:
        """One stage: the whole network under the head's loss."""
        return StageRow([Whole(self)])

    def called_modules(self) -> list[nn.Module]:
        """The capsules' features, without the classifiers that are taken out, the projections, and the head."""
        modules: list[nn.Module] = []
        for block in self.prime_blocks:
            modules += [capsule.features for capsule in block.in_order]
            if block.projection is not None:
                modules.append(block.projection)
        return [*modules, self.head]

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

    def learned(self, route: Route) -> None:
        """Remember nothing: nothing is routed."""

    def choices(self) -> Route:
        """One stage, which has no choice."""
        return (0,)

    def features(self, x: Tensor, route: Route | None = None) -> Tensor:
        """Compute what the head sees: what each router makes of all maps; a route has no meaning here."""
        return super().features(x, (0,) * len(self.blocks))

    def evaluate(self, x: Tensor, target: Tensor, route: Route | None = None) -> Evaluation:
        """Give the head's verdict, the only one there is; a route has no meaning here."""
        return super().evaluate(x, target)
