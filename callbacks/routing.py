"""Routing over the epochs: logged, drawn, and warned of where something is odd about it."""

import copy
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from primenet_lightning.analysis.routing import (
    Blocks,
    EpochOfRoutes,
    blocks_of,
    inferred_otherwise,
    routed_alone,
    routed_blocks,
    stopped_learning,
)
from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import at_least
from primenet_lightning.callbacks.publishing import DrawnAtTheEnd, publish, publish_table
from primenet_lightning.figures.curves import curves_in
from primenet_lightning.figures.routing import draw_routing
from primenet_lightning.figures.style import FigureFormat
from primenet_lightning.nn.prime.network import PrimeNetwork
from primenet_lightning.training.fit_state import FitState


class RoutingMonitor(DrawnAtTheEnd, FitState, metaclass=CheckedArguments):
    """Log each epoch's routing, draw it when the fit ends, and warn of what is odd about it.

    From the numbers that `PrimeNet.training_step` returns, with no pass of its own. To every logger, once per epoch:
    ``routing/share/block0.k3``, the share of batches that were routed to the capsule; ``routing/switches/block0``, how
    often the routed capsule was another than in the batch before, over batches; ``routing/margin/block0``, the mean
    difference in nats between the least and the second least loss, for blocks of several capsules. Where a router
    hands on all maps, or each image's own, nothing is routed by the batch: ``routing/least_loss/block0.k3`` is the
    share of batches in which the capsule had the least loss, and ``routing/changes/block0`` how often that was another
    capsule than in the batch before. The picture is ``figures/routing.png``, the numbers with each capsule's mean loss
    are ``figures/routing.csv``.

    It warns, once for each block or capsule, when after a whole epoch of several batches

    - label-free inference takes another capsule than the one that the epoch routed most;
    - a capsule's mean loss has not fallen for ``patience`` epochs;

    and at the end of the training when

    - one of several capsules was routed in every batch of all epochs.

    Args:
        folder: Where ``figures`` goes; None takes the folder of the first logger, or without loggers the Trainer's
            ``default_root_dir``.
        patience: Epochs without improvement after which a capsule counts as having stopped to learn.
        min_improvement: By which part of its best a mean loss must fall to count as improved.
        figure_format: Kind of the files: ``"png"``, ``"svg"`` or ``"pdf"``, which comes with a PNG beside it.

    Attributes:
        history: By epoch, its number and its means: ``share/<capsule>``, ``switches/<block>``, ``margin/<block>``,
            ``loss/<capsule>``; of blocks that route no batches ``least_loss/<capsule>`` and ``changes/<block>``.

    Raises:
        ValueError: If ``patience`` is not positive ``min_improvement`` is not in [0, 1), or ``figure_format`` is
            unknown.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> monitor = RoutingMonitor(patience=10)
        >>> trainer = Trainer(callbacks=[monitor], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        patience: int = 5,
        min_improvement: float = 1e-3,
        figure_format: FigureFormat = "png",
    ) -> None:
        at_least(1, "epoch", patience=patience)
        if not 0 <= min_improvement < 1:
            raise ValueError(f"min_improvement={min_improvement} is no part of a loss; give at least 0, below 1")
        super().__init__(folder, figure_format)
        self.patience = patience
        self.min_improvement = min_improvement
        self._blocks: Blocks = {}
        self._routed: list[str] = []
        self._forget()

    def _forget(self) -> None:
        self.history: list[tuple[int, dict[str, float]]] = []
        self._epoch = EpochOfRoutes()
        self._route: list[str] = []
        self._warned: list[str] = []

    # -- counting ------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the network, and begin anew unless training goes on."""
        network = getattr(pl_module, "network", None)
        self._blocks, self._routed = {}, []
        if isinstance(network, PrimeNetwork):
            self._blocks, self._routed = blocks_of(network), routed_blocks(network)
        if trainer.fit_loop.total_batch_idx < 0:
            self._forget()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        if not self._blocks or not isinstance(outputs, Mapping) or "route" not in outputs or "losses" not in outputs:
            return
        if len(outputs["route"]) < len(self._blocks):
            return  # of a pipeline's process that does not have the last block; rank 0 has
        if self._epoch.number != trainer.current_epoch:
            # Lightning does not end an epoch when the checkpoint resumed from came after its last batch
            self._record(trainer, trainer.fit_loop.total_batch_idx - 1)
            self._epoch = EpochOfRoutes.start(trainer.current_epoch, self._blocks)
        self._blocks = blocks_of(_network_of(pl_module))  # routers may prune
        routed = [names[index] for names, index in zip(self._blocks.values(), outputs["route"], strict=True)]
        self._epoch.add(self._blocks, routed, self._route, outputs["losses"])
        self._route = routed

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch, and warn if it was a whole one."""
        if not self._epoch.batches:
            return
        self._record(trainer, trainer.fit_loop.total_batch_idx)
        if trainer.is_last_batch and self._epoch.batches > 1 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._warn(_network_of(pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the last epoch, if the checkpoint resumed from came after its last batch."""
        self._record(trainer, trainer.fit_loop.total_batch_idx)
        if self._epoch.batches > 1 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._warn_at_the_end(_network_of(pl_module))

    def _record(self, trainer: Trainer, step: int) -> None:
        """Log the epoch, unless that was done or there is none."""
        number = self._epoch.number
        if not self._epoch.batches or (self.history and self.history[-1][0] == number):
            return
        means = self._epoch.means(self._routed)
        self.history.append((number, means))
        metrics: dict[str, float] = {}
        for name, value in means.items():
            if not name.startswith("loss/"):  # the model itself logs the losses
                metrics[f"routing/{name}"] = value
        for logger in trainer.loggers:
            logger.log_metrics(metrics | {"epoch": number}, step=step)

    # -- warnings ------------------------------------------------------------------------------------------------------

    def _warn(self, network: PrimeNetwork) -> None:
        epoch = f"epoch {self._epoch.number}"
        remedy = "'majority'"
        if network.inference_routing == "majority":
            remedy = "a shorter routing_window"
        self._tell_once(
            "inference",
            inferred_otherwise(network, self._blocks, self._epoch),
            f"Label-free inference takes another capsule than {epoch} routed most: {{}}. What follows was trained on "
            f"maps that it will not get: consider {remedy} (now inference_routing={network.inference_routing!r}).",
        )
        self._tell_once(
            "stopped",
            stopped_learning(list(self._epoch.losses), self.history, self.patience, self.min_improvement),
            f"Mean losses have not fallen for {self.patience} epochs up to {epoch}: {{}}. Consider another learning "
            "rate or a schedule (capsule_optimizer, capsule_scheduler), or ending the training.",
        )

    def _warn_at_the_end(self, network: PrimeNetwork) -> None:
        alone: dict[str, str] = {}
        for block, name in routed_alone(network, self._blocks, self._epoch).items():
            if all(means[f"share/{name}"] == 1 for _, means in self.history):
                alone[block] = name
        self._tell_once(
            "routed alone",
            alone,
            "In every batch of the training the same capsule was routed: {}. What follows has seen no other: consider "
            "leaving the block's other capsules out (kernel_sizes), or making them more alike in size.",
        )

    def _tell_once(self, kind: str, findings: Mapping[str, str], sentence: str) -> None:
        """Warn of what was not warned of before; the findings go into the sentence."""
        news: list[str] = []
        for name, finding in findings.items():
            if f"{kind}: {name}" not in self._warned:
                self._warned.append(f"{kind}: {name}")
                news.append(finding)
        if news:
            rank_zero_warn(sentence.format("; ".join(news)))

    # -- the picture ---------------------------------------------------------------------------------------------------

    def _draw(self, trainer: Trainer) -> None:
        folder = self.folder_to_draw_in(trainer)
        if not self.history or folder is None:
            return
        columns = curves_in(self.history)
        rows: list[list[Any]] = []
        for number, means in self.history:
            rows.append([number, *(means.get(name, "") for name in columns)])
        publish_table("routing", ["epoch", *columns], rows, trainer, folder)
        publish(draw_routing(self.history), "routing", trainer, folder, self.figure_format)

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The history, the sums of the epoch that is under way, and which warnings were given."""
        return {
            "history": list(self.history),
            "epoch": asdict(self._epoch),
            "route": list(self._route),
            "warned": list(self._warned),
        }

    def _take_over(self, state_dict: Mapping[str, Any]) -> None:
        self.history = list(state_dict["history"])
        self._epoch = EpochOfRoutes(**copy.deepcopy(state_dict["epoch"]))
        self._route = list(state_dict["route"])
        self._warned = list(state_dict["warned"])


def _network_of(pl_module: LightningModule) -> PrimeNetwork:
    network = pl_module.network
    assert isinstance(network, PrimeNetwork)  # or no batch would have been counted
    return network
