"""Routing over the epochs: which capsule goes on, how often that changes, by what margin, and what is odd about it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from primenet_lightning.callbacks.figures import (
    COLOURS,
    LINE_STYLES,
    DrawnAtTheEnd,
    curves_in,
    new_figure,
    publish,
    publish_table,
    style_of,
)
from primenet_lightning.nn.prime.network import PrimeNetwork
from primenet_lightning.nn.prime.router import LeastLoss

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Blocks = dict[str, list[str]]
"""Full names of the capsules, ``block0.k3``, in routing order, by block."""

GREYS = ("black", "0.35", "0.5", "0.62")
BLOCK_MARKERS = ("o", "s", "^", "D")


@dataclass
class _Epoch:
    """What an epoch has counted so far, in plain values, which a checkpoint can hold; by capsule or by block."""

    number: int = -1
    batches: int = 0
    taken: dict[str, int] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    switches: dict[str, int] = field(default_factory=dict)
    margins: dict[str, float] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    @classmethod
    def start(cls, number: int, blocks: Blocks) -> "_Epoch":
        capsules = [name for names in blocks.values() for name in names]
        several = [block for block, names in blocks.items() if len(names) > 1]
        return cls(
            number,
            taken=dict.fromkeys(capsules, 0),
            losses=dict.fromkeys(capsules, 0.0),
            switches=dict.fromkeys(blocks, 0),
            margins=dict.fromkeys(several, 0.0),
            seen=dict.fromkeys([*capsules, *several], 0),
        )

    def add(self, blocks: Blocks, routed: Sequence[str], before: Sequence[str], losses: Mapping[str, float]) -> None:
        self.batches += 1
        for place, (block, names) in enumerate(blocks.items()):
            self.taken[routed[place]] += 1
            if before and before[place] != routed[place]:
                self.switches[block] += 1
            if block in self.margins and len(names) > 1:
                best, second = sorted([losses[name] for name in names])[:2]
                self.margins[block] += second - best
                self.seen[block] += 1
            for name in names:
                self.losses[name] += losses[name]
                self.seen[name] += 1

    def means(self) -> dict[str, float]:
        rates: dict[str, Mapping[str, int]] = {"share": self.taken, "switches": self.switches}
        means = {f"{kind}/{name}": count / self.batches for kind, by in rates.items() for name, count in by.items()}
        # a capsule that is pruned in the middle of an epoch has been there for a part of it, or for none
        sums: dict[str, Mapping[str, float]] = {"margin": self.margins, "loss": self.losses}
        return means | {
            f"{kind}/{name}": total / seen
            for kind, by in sums.items()
            for name, total in by.items()
            if (seen := self.seen.get(name, self.batches))
        }


class RoutingMonitor(DrawnAtTheEnd):
    """Log each epoch's routing, draw it when the fit ends, and warn of what is odd about it.

    From the numbers that `PrimeNet.training_step` returns, with no pass of its own. To every logger, once an epoch:
    ``routing/share/block0.k3``, the share of batches that the capsule was routed (under a router that makes its own of
    all maps: that it led, by the least loss); ``routing/switches/block0``, how
    often the routed capsule was another than in the batch before, over batches; ``routing/margin/block0``, the mean
    difference in nats between the least and the second least loss, for blocks of several capsules. The picture is
    ``figures/routing.png``, the numbers with each capsule's mean loss are ``figures/routing.csv``.

    It warns, once for each block or capsule, when after a whole epoch of several batches

    - one of several capsules was routed in every batch;
    - label-free inference takes another capsule than the one that the epoch routed most;
    - a capsule's mean loss has not fallen for ``patience`` epochs.

    Args:
        folder: Where ``figures`` goes; None takes the folder of the first logger, or without loggers the Trainer's
            ``default_root_dir``.
        patience: Epochs without improvement after which a capsule counts as having stopped to learn.
        min_improvement: By which part of its best a mean loss must fall to count as improved.

    Attributes:
        history: By epoch, its number and its means: ``share/<capsule>``, ``switches/<block>``, ``margin/<block>``,
            ``loss/<capsule>``.

    Raises:
        ValueError: If ``patience`` is not positive or ``min_improvement`` is not in [0, 1).

    Example:
        >>> from lightning.pytorch import Trainer
        >>> monitor = RoutingMonitor(patience=10)
        >>> trainer = Trainer(callbacks=[monitor], logger=False, enable_checkpointing=False)
    """

    def __init__(self, folder: str | Path | None = None, patience: int = 5, min_improvement: float = 1e-3) -> None:
        if patience < 1:
            raise ValueError(f"patience={patience} must be at least 1 epoch")
        if not 0 <= min_improvement < 1:
            raise ValueError(f"min_improvement={min_improvement} is no part of a loss; give at least 0, below 1")
        super().__init__(folder)
        self.patience = patience
        self.min_improvement = min_improvement
        self._blocks: Blocks = {}
        self._forget()

    def _forget(self) -> None:
        self.history: list[tuple[int, dict[str, float]]] = []
        self._epoch = _Epoch()
        self._route: list[str] = []
        self._warned: list[str] = []

    # -- counting ------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the network, and begin anew unless training goes on."""
        self._blocks = _blocks_of(pl_module)
        if trainer.fit_loop.total_batch_idx < 0:
            self._forget()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        if not self._blocks or not isinstance(outputs, Mapping) or "route" not in outputs or "losses" not in outputs:
            return
        if self._epoch.number != trainer.current_epoch:
            # Lightning does not end an epoch when the checkpoint resumed from came after its last batch
            self._record(trainer, trainer.fit_loop.total_batch_idx - 1)
            self._epoch = _Epoch.start(trainer.current_epoch, self._blocks)
        self._blocks = _blocks_of(pl_module)  # routers may prune
        routed = [names[index] for names, index in zip(self._blocks.values(), outputs["route"], strict=True)]
        self._epoch.add(self._blocks, routed, self._route, outputs["losses"])
        self._route = routed

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch, and warn if it was a whole one."""
        if not self._epoch.batches:
            return
        self._record(trainer, trainer.fit_loop.total_batch_idx)
        if trainer.is_last_batch and self._epoch.batches > 1 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            assert isinstance(pl_module.network, PrimeNetwork)  # or nothing would have been counted
            self._warn(pl_module.network)

    def _record(self, trainer: Trainer, step: int) -> None:
        """Log the epoch, unless that was done or there is none."""
        number = self._epoch.number
        if not self._epoch.batches or (self.history and self.history[-1][0] == number):
            return
        means = self._epoch.means()
        self.history.append((number, means))
        metrics = {f"routing/{name}": value for name, value in means.items() if not name.startswith("loss/")}
        for logger in trainer.loggers:
            logger.log_metrics(metrics | {"epoch": number}, step=step)

    # -- warnings ------------------------------------------------------------------------------------------------------

    def _warn(self, network: PrimeNetwork) -> None:
        epoch = f"epoch {self._epoch.number}"
        self._say(
            "routed alone",
            self._routed_alone(network),
            f"In every batch of {epoch} the same capsule was routed: {{}}. What follows has seen no other: consider "
            "leaving the block's other capsules out (kernel_sizes), or making them more alike in size.",
        )
        remedy = "a shorter routing_window" if network.inference_routing == "majority" else "'majority'"
        self._say(
            "inference",
            self._inferred_otherwise(network),
            f"Label-free inference takes another capsule than {epoch} routed most: {{}}. What follows was trained on "
            f"maps that it will not get: consider {remedy} (now inference_routing={network.inference_routing!r}).",
        )
        self._say(
            "stopped",
            self._stopped(),
            f"Mean losses have not fallen for {self.patience} epochs up to {epoch}: {{}}. Consider another learning "
            "rate or a schedule (capsule_optimizer, capsule_scheduler), or ending the training.",
        )

    def _say(self, kind: str, findings: Mapping[str, str], sentence: str) -> None:
        new = {f"{kind}: {name}": text for name, text in findings.items() if f"{kind}: {name}" not in self._warned}
        if new:
            self._warned += new
            rank_zero_warn(sentence.format("; ".join(new.values())))

    def _routed_alone(self, network: PrimeNetwork) -> dict[str, str]:
        """By block of several capsules, the one that has been routed in every batch, where no more was wanted."""
        choosing = {f"block{i}" for i, block in enumerate(network.prime_blocks) if type(block.router) is LeastLoss}
        return {
            block: name
            for block, names in self._blocks.items()
            for name in names
            if len(names) > 1 and self._epoch.taken[name] == self._epoch.batches and block in choosing
        }

    def _inferred_otherwise(self, network: PrimeNetwork) -> dict[str, str]:
        """By block, the capsule of label-free inference and the one routed more often than that."""
        try:
            route = network.inference_route()
        except ValueError:
            return {}  # each sample takes its own, or nothing is selected yet
        found = {}
        for (block, names), index, prime in zip(self._blocks.items(), route, network.prime_blocks, strict=True):
            if not prime.router.chooses:
                continue
            most = max(names, key=self._epoch.taken.__getitem__)
            if self._epoch.taken[names[index]] < self._epoch.taken[most]:
                share = 100 * self._epoch.taken[most] / self._epoch.batches
                found[block] = f"{names[index]} instead of {most} ({share:.0f}% of batches)"
        return found

    def _stopped(self) -> dict[str, str]:
        """By capsule, the best mean loss of those that have not improved for so many epochs."""
        found = {}
        for name in self._epoch.losses:
            losses = [means[f"loss/{name}"] for _, means in self.history if f"loss/{name}" in means]
            best, since = best_and_since(losses, self.min_improvement)
            if since >= self.patience:
                found[name] = f"{name} (best {best:.4g} nats)"
        return found

    # -- the picture ---------------------------------------------------------------------------------------------------

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the last epoch, if the checkpoint resumed from came after its last batch."""
        self._record(trainer, trainer.fit_loop.total_batch_idx)

    def _draw(self, trainer: Trainer) -> None:
        folder = self.folder_to_draw_in(trainer)
        if not self.history or folder is None:
            return
        columns = curves_in(self.history)
        rows = [[number, *(means.get(name, "") for name in columns)] for number, means in self.history]
        publish_table("routing", ["epoch", *columns], rows, trainer, folder)
        publish(draw_routing(self.history), "routing", trainer, folder)

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
        self._epoch = _Epoch(**{name: _copied(value) for name, value in state_dict["epoch"].items()})
        self._route = list(state_dict["route"])
        self._warned = list(state_dict["warned"])


def _blocks_of(pl_module: LightningModule) -> Blocks:
    network = getattr(pl_module, "network", None)
    names = network.capsule_names if isinstance(network, PrimeNetwork) else []
    return {f"block{index}": capsules for index, capsules in enumerate(names)}


def best_and_since(losses: Sequence[float], min_improvement: float) -> tuple[float, int]:
    """Follow a loss over the epochs.

    Args:
        losses: By epoch.
        min_improvement: By which part of the best a loss must fall to be the new best.

    Returns:
        The best, and how many epochs have passed since; infinity and 0 if there is none.

    Example:
        >>> best_and_since([1.0, 0.5, 0.4999, 0.6], min_improvement=1e-3)
        (0.5, 2)
    """
    best, since = float("inf"), 0
    for loss in losses:
        if loss < best * (1 - min_improvement) or best == float("inf"):
            best, since = loss, 0
        else:
            since += 1
    return best, since


def draw_routing(history: Sequence[tuple[int, Mapping[str, float]]]) -> Any:
    """Draw shares by block on the left; margin and switches, a line a block, on the right.

    Args:
        history: Of a `RoutingMonitor`, not empty.

    Returns:
        The figure.
    """
    from matplotlib.ticker import MaxNLocator

    names = [key.removeprefix("share/") for key in history[-1][1] if key.startswith("share/")]
    blocks = list(dict.fromkeys(name.partition(".")[0] for name in names))
    kinds = {"margin": "margin (nats)", "switches": "switches a batch"}
    kinds = {kind: label for kind, label in kinds.items() if any(f"{kind}/{b}" in history[-1][1] for b in blocks)}
    figure = new_figure(6.4, max(3.9, 1.3 * len(blocks) + 1.2))
    grid = figure.add_gridspec(1, 2, width_ratios=[1.25, 1])
    shares = grid[0].subgridspec(len(blocks), 1).subplots(sharex=True, squeeze=False)[:, 0]
    others = grid[1].subgridspec(len(kinds), 1).subplots(sharex=True, squeeze=False)[:, 0]
    for axes, block in zip(shares, blocks, strict=True):
        _plot_shares(axes, history, [name for name in names if name.startswith(f"{block}.")], names)
        axes.set_ylabel(f"{block}:\nshare of batches" if len(blocks) < 4 else f"{block}: share")
    for axes, (kind, label) in zip(others, kinds.items(), strict=True):
        _plot_blocks(axes, history, [f"{kind}/{block}" for block in blocks])
        axes.set_ylabel(label)
    for axes in (shares[-1], others[-1]):
        axes.set_xlabel("epoch")
    for axes in (*shares, *others):
        axes.grid(alpha=0.3, linewidth=0.5)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.set_xlim(history[0][0] - 0.5, history[-1][0] + 0.5)
    handles = _legend_of(list(shares))
    figure.legend(*handles, loc="outside upper center", ncols=min(8, len(handles[0])), fontsize=8, columnspacing=1.2)
    if len(blocks) > 1:
        # above the axes, where it hides no line
        others[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=7.5, ncols=2, handlelength=3)
    return figure


def _plot_shares(
    axes: "Axes", history: Sequence[tuple[int, Mapping[str, float]]], names: Sequence[str], all_names: Sequence[str]
) -> None:
    for place, name in enumerate(names):
        points = [(number, means[f"share/{name}"]) for number, means in history if f"share/{name}" in means]
        style = style_of(name, all_names)
        if place >= len(COLOURS):  # colours and markers begin again; these markers are hollow
            style |= {"markerfacecolor": "white"}
        axes.plot(*zip(*points, strict=True), label=name, **_sizes(points), **style)
    axes.set_ylim(-0.05, 1.05)
    axes.set_yticks([0, 0.5, 1])


def _plot_blocks(axes: "Axes", history: Sequence[tuple[int, Mapping[str, float]]], keys: Sequence[str]) -> None:
    for place, key in enumerate(keys):
        points = [(number, means[key]) for number, means in history if key in means]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                label=key.partition("/")[2],
                color=GREYS[place % len(GREYS)],
                linestyle=LINE_STYLES[place % len(LINE_STYLES)],
                marker=BLOCK_MARKERS[place % len(BLOCK_MARKERS)],
                markerfacecolor="white",
                **_sizes(points),
            )
    top = max(axes.get_ylim()[1], 0.05)
    axes.set_ylim(-0.04 * top, top)  # markers at 0 are seen whole


def _sizes(points: Sequence[Any]) -> dict[str, Any]:
    return {"markersize": 4.5, "linewidth": 1.2, "markevery": max(1, len(points) // 12)}


def _legend_of(all_axes: Sequence["Axes"]) -> tuple[list[Any], list[str]]:
    """One entry a capsule for blocks that have the same capsules, else one a block and capsule."""
    handles, labels = [], []
    for axes in all_axes:
        mine = axes.get_legend_handles_labels()
        handles += mine[0]
        labels += mine[1]
    short = [[label.partition(".")[2] for label in axes.get_legend_handles_labels()[1]] for axes in all_axes]
    if all(names == short[0] for names in short):
        return handles[: len(short[0])], short[0]
    return handles, labels


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
