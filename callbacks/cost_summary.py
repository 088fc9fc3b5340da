"""A model summary that tells what the network costs."""

from collections.abc import Iterable

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from primenet_lightning.analysis.cost import count_inference, count_training, local_share
from primenet_lightning.nn.names import LearnerName
from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.prime.network import PrimeNetwork
from primenet_lightning.nn.stages import Route
from primenet_lightning.training.learner import LocalLearner


class CostSummary(Callback):
    """Print each learner's parameters, and the network's multiply-adds at training and at inference.

    Of a `CutNet` also what local classifiers, and what else parts learn from, make up of it in training. Use it instead
    of Lightning's own summary (``Trainer(enable_model_summary=False)``).

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[CostSummary()], enable_model_summary=False, logger=False)
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the summary, on the first rank only."""
        if trainer.is_global_zero and isinstance(pl_module, LocalLearner):
            Console().print(cost_table(pl_module))


def cost_table(model: LocalLearner) -> Table:
    """Describe a model's cost.

    Args:
        model: The model.

    Returns:
        A table for rich.
    """
    network = model.network
    shape = " x ".join(map(str, model.in_shape))
    table = Table(title=f"{_title(model)}, images {shape}", title_justify="left", box=None)
    table.add_column("learns from its own loss")
    table.add_column("parameters", justify="right")
    for name, parameters in network.learners().items():
        table.add_row(name, _count(parameters))
    table.add_row("all", _count(network.parameters()))
    share = local_share(network)
    if share is not None:
        if not network.strictly_local:
            table.caption = "not strictly local: gradients cross between parts"
        table.add_row("local classifiers' share of parameters", f"{share.parameters:.1%}")
        table.add_row("local classifiers' share of multiply-adds, forward", f"{share.multiply_adds:.1%}")
    table.add_row("multiply-adds per image, training step", f"{count_training(network):,}")
    _add_inference(table, network)
    return table


def _title(model: LocalLearner) -> str:
    """The model's class, and the backbone that it has by name."""
    kind = type(model).__name__
    backbone = model.hparams.get("backbone")
    return f"{kind} of {backbone}" if backbone else kind


def _add_inference(table: Table, network: StagedNetwork) -> None:
    """Rows of what a prediction costs: of a `PrimeNetwork`, by route."""
    words = "multiply-adds per image, inference"
    if not isinstance(network, PrimeNetwork):
        table.add_row(words, f"{count_inference(network):,}")
        return
    for route in _some_routes(network):
        table.add_row(f"{words} by {_computed(network, route)}", f"{count_inference(network, route):,}")


def _count(parameters: Iterable[Tensor]) -> str:
    return f"{sum(parameter.numel() for parameter in parameters):,}"


def _computed(network: PrimeNetwork, route: Route) -> str:
    """Whose features a route computes."""
    if not network.local:
        return "all capsules"
    parts: list[str] = []
    for names, index, block in zip(network.capsule_names, route, network.prime_blocks, strict=True):
        if block.router.chooses:
            parts.append(names[index])
        else:
            parts.append(f"all of {LearnerName.parse(names[0]).stage}")
    return ", ".join(parts)


def _some_routes(network: PrimeNetwork) -> list[Route]:
    """Every route through one block; through several, the cheapest and the dearest: there may be many."""
    if len(network.blocks) == 1:
        return network.joint_routes()
    cheapest: list[int] = []
    dearest: list[int] = []
    for place, block in enumerate(network.prime_blocks):
        costs = [count_inference(network, _alone(index, place, len(network.blocks))) for index in block.choices]
        cheapest.append(costs.index(min(costs)))
        dearest.append(costs.index(max(costs)))
    return [tuple(cheapest), tuple(dearest)]


def _alone(index: int, place: int, blocks: int) -> Route:
    """The route that takes the capsule of this index in one block, and the first in all others."""
    route = [0] * blocks
    route[place] = index
    return tuple(route)
