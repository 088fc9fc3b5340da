"""PrimeNet: the LightningModule. Nothing but training logic."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypedDict, TypeVar

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from primenet_lightning.nn.classifiers import ClassifierHead, LocalClassifier
from primenet_lightning.nn.losses import LocalLossKind, cross_entropy
from primenet_lightning.nn.numbers import NonFiniteError
from primenet_lightning.nn.prime.architecture import Architecture, Size, architecture
from primenet_lightning.nn.prime.block import PrimeBlock
from primenet_lightning.nn.prime.capsules import Capsule
from primenet_lightning.nn.prime.network import HEAD, PrimeNetwork, Stage, capsules_of, stack_blocks
from primenet_lightning.nn.prime.projection import Projection
from primenet_lightning.nn.prime.router import Router
from primenet_lightning.nn.prime.routers import RouterName, build_router
from primenet_lightning.nn.prime.routes import InferenceRouting
from primenet_lightning.nn.prime.twin import EndToEndNetwork
from primenet_lightning.training.checkpoints import AtomicCheckpointIO
from primenet_lightning.training.counting import LearnerMetrics
from primenet_lightning.training.exchange import (
    BatchShare,
    GradientSum,
    average_batch_norm,
    batch_norm_statistics,
    gather,
)
from primenet_lightning.training.loss_log import LossLog
from primenet_lightning.training.optimizers import (
    CompositeOptimizer,
    CompositeScheduler,
    LRSchedulerCallable,
    OptimizerCallable,
    PaperAdam,
)
from primenet_lightning.training.predictor import ImagePredictor
from primenet_lightning.training.refusals import refuse_architecture, refuse_classes, refuse_data, refuse_strategy
from primenet_lightning.training.resuming import get_random_state, set_random_state
from primenet_lightning.training.schedules import Schedule
from primenet_lightning.training.schedules import schedule as make_schedule
from primenet_lightning.training.stopping import GracefulStop

Loss = TypeVar("Loss", float, Tensor)
Value = TypeVar("Value")

COUNT_EVERY = 100
"""Batches whose training predictions are kept until torchmetrics counts them, all at once."""


REQUESTS = ("interrupt", "terminate", "requeue")
"""What a process may be asked to do, by a signal, after the batch under way."""


class StepOutput(TypedDict):
    """What a training step tells the callbacks; host numbers, so that nobody has to wait for the device again.

    They are the same on every rank.

    Attributes:
        losses: Means over the global batch by name, and under ``"total"`` the routed capsules' plus the head's
            (section 5.1).
        route: The routed capsule's index in each block.
        requests: What any rank had been asked for when the batch began, of `REQUESTS`; on one process, when it ended.
    """

    losses: dict[str, float]
    route: list[int]
    requests: list[str]


class PrimeNet(ImagePredictor):
    """PrimeNet, trained locally: each capsule by its own optimizer from its own cross-entropy (section 3.5).

    Optimization is manual: every block runs, its capsules' losses go backward, its activations are freed, the map of
    the capsule with the least loss goes on detached, and at the end of the batch all optimizers step. On several
    devices (strategy ``"ddp"``) losses, gradients and batch-norm statistics are averaged over the global batch.

    Extension is by subclass: override one of ``configure_capsules``, ``configure_projection``, ``configure_head``,
    ``configure_blocks``, ``configure_network``. This constructor calls them: a subclass's own arguments they read from
    ``self.hparams``, since its attributes are not yet set.

    Logged by `LossLog`, attached by itself: ``train/loss/<name>`` by step. Logged here by epoch, for train,
    val and test: ``accuracy`` and ``error`` (%) of the head, ``accuracy/<name>`` and ``error/<name>`` of each capsule,
    and for val and test ``loss/<name>``; names are ``block0.k3``, ..., ``head``. Under the ``"oracle"`` route they
    begin with ``val/oracle/`` and ``test/oracle/``.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        size: ``"compact"`` (the paper's claimed cost) or ``"paper"`` (the authors' widths); the six arguments from
            ``reduce_channels`` to ``stride`` replace single fields of it.
        depth: Number of blocks.
        pool_every: A 2x2 max pool follows every so many blocks, or the blocks of these indices; never the last.
        kernel_sizes: One capsule a scale, odd, the same in every block.
        reduce_channels: Channels after each capsule's 1x1 convolution, of all blocks or one number a block; 0 leaves
            the 1x1 out.
        channels: Channels of each capsule's feature map, likewise.
        projection_channels: Channels of the projection, likewise; 0 leaves it out.
        head_channels: Filters of the head's 3x3 convolution.
        local_classifier: ``"flatten"`` (the paper's), ``"pooled"``, ``"mlp"``, ``"conv"``, or ``"layers"``: the ones
            that follow in the network.
        local_classifier_options: Further arguments of the local classifier, as ``{"depth": 3, "width": 32}``; see
            `primenet_lightning.nn.classifiers.local_classifier`.
        stride: Stride of the first block's capsules; the projection follows.
        router: What a block hands on: the map of the capsule of ``"least_loss"`` (the paper's), of one that lasts
            (``"settle"``), that is kept for good and the others pruned (``"commit"``); all maps (``"concatenate"``),
            their ``"mean"``, or a learned choice (``"gate"``); for comparison, always the same capsule's
            (``"fixed"``), or one's at random (``"random"``). See `primenet_lightning.nn.prime.routers`.
        router_options: Arguments of the router, as ``{"warm_up": 500}``, or ``{"capsule": 1}`` of ``"fixed"``.
        local_loss: What capsules learn from: ``"cross_entropy"`` (the paper's), ``"label_smoothing"``,
            ``"similarity"`` or ``"predsim"``, see `primenet_lightning.nn.losses`.
        local_loss_options: Arguments of that loss, as ``{"weight": 0.5}``.
        local: False trains the same network end to end, by the head's loss alone: the twin that local learning is
            compared with, see `primenet_lightning.nn.prime.twin`.
        capsule_optimizer: Makes the optimizer of one capsule from its parameters (and that of a projection that
            learns locally). The default is the paper's: Adam, learning rate 2e-4, betas (0.99, 0.999).
        head_optimizer: Makes the head's.
        capsule_scheduler: Makes the learning rate schedule of one capsule's optimizer.
        head_scheduler: Makes the head's.
        schedule: ``"cosine"``, ``"step"`` or ``"one_cycle"`` over the whole fit, for all optimizers, see
            `primenet_lightning.training.schedules`; instead of the two above.
        scheduler_interval: Schedules count ``"epoch"`` or ``"step"`` (optimizer steps).
        update: ``"end_of_batch"``, or ``"immediate"``: as in the paper, each optimizer steps, and its gradients are
            freed, right after its own backward. Both give the same numbers.
        backward: ``"block"``: one backward a block, whose activations then are freed. ``"capsule"``: one backward a
            capsule, before the next one runs. ``"fused"``: one backward for all, at the memory of the whole network.
            All give the same numbers.
        overlap: On several devices, average the gradients of each block while the next one runs, instead of all
            together before the step.
        accumulate_grad_batches: Batches an optimizer step; their gradients are averaged, also in the epoch's last,
            shorter window.
        gradient_clip_val: Largest norm of the gradient of one capsule, or of the head; None does not clip.
        routing_window: Over how many of the latest batches the majority route is taken.
        inference_routing: Route without labels, see `PrimeNetwork`.
        evaluate_capsules: Whether validation and test run every capsule to log its loss and accuracy; otherwise only
            what is routed runs, as in prediction.

    Attributes:
        requests: What this process has been asked to do after the batch under way, of `REQUESTS`; all processes hear
            of it in `StepOutput`.
        skipped_steps: Optimizer steps that fp16's scaler left out because a gradient was not finite.

    Raises:
        ValueError: For options that are impossible, alone or together.

    Example:
        >>> model = PrimeNet(in_channels=1, image_size=(28, 28), num_classes=10)
        >>> model.network.loss_names
        ['block0.k3', 'block0.k5', 'block0.k7', 'head']
        >>> model.eval()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    network: PrimeNetwork

    def __init__(
        self,
        in_channels: int = 1,
        image_size: tuple[int, int] = (8, 8),
        num_classes: int = 10,
        size: Size = "compact",
        depth: int = 1,
        pool_every: int | tuple[int, ...] = 1,
        kernel_sizes: tuple[int, ...] = (3, 5, 7),
        reduce_channels: int | tuple[int, ...] | None = None,
        channels: int | tuple[int, ...] | None = None,
        projection_channels: int | tuple[int, ...] | None = None,
        head_channels: int | None = None,
        local_classifier: LocalClassifier | None = None,
        local_classifier_options: dict[str, Any] | None = None,
        stride: int | None = None,
        router: RouterName = "least_loss",
        router_options: dict[str, Any] | None = None,
        local_loss: LocalLossKind = "cross_entropy",
        local_loss_options: dict[str, Any] | None = None,
        local: bool = True,
        capsule_optimizer: OptimizerCallable = PaperAdam,
        head_optimizer: OptimizerCallable = PaperAdam,
        capsule_scheduler: LRSchedulerCallable | None = None,
        head_scheduler: LRSchedulerCallable | None = None,
        schedule: Schedule | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        update: Literal["end_of_batch", "immediate"] = "end_of_batch",
        backward: Literal["block", "capsule", "fused"] = "block",
        overlap: bool = False,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = None,
        routing_window: int = 256,
        inference_routing: InferenceRouting = "majority",
        evaluate_capsules: bool = True,
    ) -> None:
        super().__init__()
        # functions cannot be loaded with weights_only=True; a checkpoint needs none of these to predict
        self.save_hyperparameters(ignore=["capsule_optimizer", "head_optimizer", "capsule_scheduler", "head_scheduler"])
        self.automatic_optimization = False
        self.in_shape: tuple[int, int, int] = (in_channels, image_size[0], image_size[1])
        self.num_classes = num_classes
        self.depth = depth
        self.pool_every = pool_every
        self.kernel_sizes = tuple(kernel_sizes)
        self.routing_window = routing_window
        self.architecture = _architecture(
            size,
            image_size,
            reduce_channels=reduce_channels,
            channels=channels,
            projection_channels=projection_channels,
            head_channels=head_channels,
            local_classifier=local_classifier,
            stride=stride,
            router=router,
            router_options=router_options,
            local_loss=local_loss,
            local_loss_options=local_loss_options,
            local_classifier_options=local_classifier_options,
        )
        self.local = local
        self.capsule_optimizer, self.head_optimizer = capsule_optimizer, head_optimizer
        self.capsule_scheduler, self.head_scheduler = capsule_scheduler, head_scheduler
        self.schedule: Schedule | None = schedule
        self.scheduler_interval = "step" if schedule is not None else scheduler_interval
        self.update, self.backward_mode, self.overlap = update, backward, overlap
        self.accumulate_grad_batches = accumulate_grad_batches
        self.gradient_clip_val = gradient_clip_val
        self._inference_routing: InferenceRouting = inference_routing
        self.evaluate_capsules = evaluate_capsules
        self._check_options()
        self.data_description: dict[str, Any] | None = None
        self.requests: set[str] = set()
        self.skipped_steps = 0
        self._steps_applied = 0
        self._schedule_steps: int | None = None
        self._schedule_resumed: int | None = None
        self._share: BatchShare | None = None
        self._gradients = GradientSum()
        self._drifted = False
        self._random_states: list[dict[str, Any]] = []
        self._pending_gradients: list[dict[str, Tensor]] = []
        self._train_predictions: list[tuple[Tensor, Tensor]] = []
        self._verdicts: Tensor | None = None
        self.network = self.configure_network()
        names = self.network.loss_names
        self.train_metrics = LearnerMetrics(names, num_classes)
        self.val_metrics = LearnerMetrics(names, num_classes)
        self.test_metrics = LearnerMetrics(names, num_classes)

    # -- extension points ----------------------------------------------------------------------------------------------

    def configure_capsules(self, index: int, in_shape: tuple[int, int, int]) -> Mapping[str, Capsule]:
        """Build the capsules of one block. **The** method to override for a new backbone.

        Args:
            index: The block's index, 0 first.
            in_shape: Channels, height and width of the block's input.

        Returns:
            Capsules by name; all maps must agree in shape.
        """
        return capsules_of(
            self.architecture, index, in_shape, self.num_classes, self.kernel_sizes, self.depth, self.pool_every
        )

    def configure_projection(
        self, index: int, in_shape: tuple[int, int, int], map_size: tuple[int, int]
    ) -> nn.Module | None:
        """Build the projection of one block; its map must have the capsules' height and width.

        Args:
            index: The block's index, 0 first.
            in_shape: Channels, height and width of the block's input.
            map_size: Height and width of the capsules' maps.

        Returns:
            The projection, or None for none.
        """
        channels = self.architecture.of_block("projection_channels", index)
        return Projection.to_size(in_shape, channels, map_size) if channels else None

    def configure_router(self, index: int) -> Router:
        """Build what decides what goes on of one block's maps.

        Args:
            index: The block's index, 0 first.

        Returns:
            A router of this block's own.
        """
        return build_router(self.architecture.router, index, self.architecture.router_options)

    def configure_blocks(self) -> list[PrimeBlock]:
        """Build all blocks, first to last, each for the 2x2 pooled output of the one before."""
        return stack_blocks(
            self.in_shape,
            self.num_classes,
            self.depth,
            self.configure_capsules,
            self.configure_projection,
            self.architecture.local_classifier,
            self.pool_every,
            self.configure_router,
            self.architecture.local_classifier_options,
        )

    def configure_head(self, in_shape: tuple[int, int, int]) -> nn.Module:
        """Build the classifier head.

        Args:
            in_shape: Channels, height and width of the last block's output.

        Returns:
            A module from that to logits.
        """
        return ClassifierHead(in_shape[0], in_shape[1:], self.num_classes, self.architecture.head_channels)

    def configure_network(self) -> PrimeNetwork:
        """Build the network from blocks and head."""
        blocks = self.configure_blocks()
        head = self.configure_head(blocks[-1].out_shape)
        kind = PrimeNetwork if self.local else EndToEndNetwork
        return kind(blocks, head, self._inference_routing, self.routing_window, self.pool_every)

    def configure_callbacks(self) -> list[Callback]:
        """Attach the loss log and the graceful stop, unless the Trainer has them already."""
        present: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        kinds: list[type[Callback]] = [LossLog, GracefulStop]
        return [kind() for kind in kinds if not any(isinstance(callback, kind) for callback in present)]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build one optimizer a learner, all in one `CompositeOptimizer`."""
        optimizers: dict[str, Optimizer] = {
            name: (self.head_optimizer if name == HEAD else self.capsule_optimizer)(parameters)
            for name, parameters in self.network.learners().items()
            if parameters
        }
        composite = CompositeOptimizer(optimizers)
        composite.register_step_post_hook(self._count_step)
        schedulers = {}
        for name, optimizer in optimizers.items():
            factory = self.head_scheduler if name == HEAD else self.capsule_scheduler
            if factory is not None:
                schedulers[name] = factory(optimizer)
        # the command line tries the optimizers before it fits; then nobody knows yet how many steps there will be
        named = self.schedule is not None and self.trainer.state.fn == "fit"
        if not (named or schedulers):
            return composite
        scheduler: LRScheduler = CompositeScheduler(composite, schedulers)
        if self.schedule is not None:
            self._schedule_steps = self._steps_of_fit()
            scheduler = make_schedule(self.schedule, composite, self._schedule_steps)
        return {
            "optimizer": composite,
            "lr_scheduler": {"scheduler": scheduler, "interval": self.scheduler_interval},
        }

    def _steps_of_fit(self) -> int:
        """Optimizer steps that a named schedule is laid out over."""
        steps = self.trainer.estimated_stepping_batches
        # it sets the data up before a resumed run's place in them is restored, which Lightning would then leave out
        self.trainer.fit_loop._combined_loader = None
        if not 0 < steps < float("inf"):
            raise ValueError(
                f"schedule={self.schedule!r} needs to know its end, and this fit has none (max_epochs="
                f"{self.trainer.max_epochs}, max_steps={self.trainer.max_steps}); set either"
            )
        trainer, epochs = self.trainer, self.trainer.max_epochs or 0
        if self.accumulate_grad_batches > 1 and epochs > 0:
            # counted here, since the Trainer knows nothing of windows
            windows = -(-int(trainer.num_training_batches) // self.accumulate_grad_batches) * epochs
            steps = min(windows, trainer.max_steps) if trainer.max_steps > 0 else windows
        return int(steps)

    @property
    def capsule_optimizers(self) -> dict[str, Optimizer]:
        """The optimizers by name, ``"block0.k3"``, ..., ``"head"``, once the Trainer has made them."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, CompositeOptimizer)
        return optimizer.children

    @property
    def inference_routing(self) -> InferenceRouting:
        """How the network routes without labels; may be set at any time."""
        return self.network.inference_routing

    @inference_routing.setter
    def inference_routing(self, mode: InferenceRouting) -> None:
        self.network.inference_routing = mode

    # -- training ------------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Prune what routers have decided against, where no gradient waits for the rest of its window."""
        if batch_idx % self.accumulate_grad_batches or not self.network.decided:
            return
        self._count_training()  # while all that predicted are there
        dropped = self.network.prune()
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, CompositeOptimizer)
        left = optimizer.drop(dropped)
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, CompositeScheduler):
            scheduler.drop(dropped)
        elif isinstance(scheduler, LRScheduler):
            scheduler.base_lrs = [scheduler.base_lrs[place] for place in left]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> StepOutput:
        """Learn from one batch, stage by stage.

        Args:
            batch: Images ``(batch, channels, height, width)``, normalised, and class indices ``(batch,)``.
            batch_idx: Index of the batch in the epoch.

        Returns:
            Losses and route, as numbers.

        Raises:
            NonFiniteError: If a loss is NaN or infinite; names block, capsule, step and learning rate, and comes before
                any parameter changes (with ``update="immediate"``: before any of that block or a later one).
        """
        images, target = self._images(batch[0]), batch[1]
        self._share = self._share_of_batch(target)
        self._drifted = self._share is not None
        values: dict[str, float] = {}
        route: list[int] = []
        logits: list[Tensor] = []
        pending: list[Tensor] = []
        on_loss = self._backward_now if self.backward_mode == "capsule" else None
        with self._without_reducer():
            stages = self.network.stages(images, target, self._share, on_loss)
            while (stage := self._next(stages)) is not None:
                values |= stage.values
                logits += [scores.detach() for scores in stage.logits.values()]
                if stage.route is not None:
                    route.append(stage.route)
                if self.backward_mode == "fused":
                    pending += stage.losses.values()
                elif self.update == "immediate":
                    self._update_now(stage)
                else:
                    self._backward(list(stage.losses.values()))
                    if self.overlap and self.window_ends(batch_idx):
                        self._send(list(stage.losses))
                del stage  # or this block's loss and logits live on while the next one runs
            if pending:
                self._backward(pending)
        self._train_predictions.append((torch.stack(logits).argmax(2), target))
        if len(self._train_predictions) == COUNT_EVERY:
            self._count_training()
        if self.window_ends(batch_idx):
            self._finish_gradients()
            self._mend_short_window(batch_idx)
            self._step()
        requests, self._share = self._all_requests(), None
        return {"losses": values | {"total": self._total(values, route)}, "route": route, "requests": requests}

    def _next(self, stages: Any) -> Stage | None:
        try:
            stage: Stage | None = next(stages, None)
        except NonFiniteError as error:
            rate = self.capsule_optimizers[error.name].param_groups[0]["lr"]
            raise NonFiniteError(error.name, error.value, self.global_step, rate) from None
        return stage

    def _backward(self, losses: Sequence[Tensor]) -> None:
        """Send losses of disjoint graphs backward together: each gets the gradient it would get alone."""
        losses = [loss for loss in losses if loss.requires_grad]  # a frozen capsule's has none
        if losses:
            total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
            factor = (1.0 if self._share is None else self._share.weight) / self.accumulate_grad_batches
            self.manual_backward(total if factor == 1 else total * factor)

    def _backward_now(self, name: str, loss: Tensor) -> None:
        """Send one loss backward while its capsule's activations are the only ones alive."""
        self._backward([loss])

    def _update_now(self, stage: Stage) -> None:
        """Step each optimizer of a stage right after its own backward, and free its gradients."""
        children = self.capsule_optimizers
        for name, loss in stage.losses.items():
            if not loss.requires_grad:
                continue
            self._backward([loss])
            if self._share is not None:
                self._send([name])
                self._gradients.finish()
            self._clip(children[name])
            children[name].step()
            children[name].zero_grad()

    # -- several devices -----------------------------------------------------------------------------------------------

    @property
    def _distributed(self) -> bool:
        return self.trainer.world_size > 1 and dist.is_available() and dist.is_initialized()

    def _share_of_batch(self, target: Tensor) -> BatchShare | None:
        """What this rank's share is of the global batch, and on the same message what it has been asked for."""
        if not self._distributed:
            return None
        return BatchShare(len(target), target.device, [request in self.requests for request in REQUESTS])

    def _all_requests(self) -> list[str]:
        if self._share is None:
            return [request for request in REQUESTS if request in self.requests]
        return [request for request, asked in zip(REQUESTS, self._share.flags, strict=True) if asked]

    def _without_reducer(self) -> AbstractContextManager[Any]:
        """Keep DDP from averaging at each backward: it would send the whole model each time."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    def _send(self, names: Sequence[str]) -> None:
        """Send the gradients of some learners on their way to the other ranks."""
        if self._share is None:
            return
        learners = self.network.learners()
        # with the last message of the batch go the batch-norm statistics, which are equal on all ranks ever after
        last = HEAD in names
        self._drifted &= not last
        self._gradients.start(
            [parameter for name in names for parameter in learners[name]],
            batch_norm_statistics(self.network) if last else [],
            self._share.weight,
        )

    def _finish_gradients(self) -> None:
        """Have the gradients of the global batch in place, those of one message or of several."""
        if self._share is None:
            return
        if not self.overlap and self.update == "end_of_batch":
            self._send(self.network.loss_names)
        elif self._drifted:  # a frozen head sent nothing
            self._send([HEAD])
        self._gradients.finish()

    def _settle(self) -> None:
        """Average batch-norm statistics where no step has done so since the last batch."""
        if self._drifted and self._distributed:
            average_batch_norm(self.network)
        self._drifted = False

    def on_validation_model_zero_grad(self) -> None:
        """Keep the gradients: a validation may fall between two batches whose gradients accumulate."""

    def on_validation_model_eval(self) -> None:
        """Average what ranks have of their own before it is used."""
        self._settle()
        super().on_validation_model_eval()

    # -- the step ------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        """Step the composite once: Lightning then counts one step. After immediate updates it finds no gradients."""
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        applied = self._steps_applied
        optimizer.step()
        self.skipped_steps += self._steps_applied == applied  # by fp16's scaler, for all learners on all ranks
        optimizer.zero_grad()
        if self.scheduler_interval == "step" and (schedulers := self.lr_schedulers()) is not None:
            schedulers.step()  # type: ignore[union-attr]

    def _count_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._steps_applied += 1

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip, learner by learner; gradients have been unscaled by now."""
        assert isinstance(optimizer, CompositeOptimizer)
        for child in optimizer.children.values():
            self._clip(child)

    def _clip(self, optimizer: Optimizer) -> None:
        if self.gradient_clip_val is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.gradient_clip_val)

    def window_ends(self, batch_idx: int) -> bool:
        """Whether an optimizer step follows this batch: the last of a window, or of the epoch.

        Args:
            batch_idx: Index of the batch in the epoch.

        Returns:
            Always True unless gradients accumulate.
        """
        return (batch_idx + 1) % self.accumulate_grad_batches == 0 or self.trainer.is_last_batch

    def _mend_short_window(self, batch_idx: int) -> None:
        """Average the epoch's last window over the batches it has; only now it is known to be short."""
        size = self.accumulate_grad_batches
        count = batch_idx % size + 1
        if count < size:
            for parameter in self.network.parameters():
                if parameter.grad is not None:
                    parameter.grad *= size / count

    def _total(self, losses: Mapping[str, Loss], route: Sequence[int]) -> Loss:
        """Loss of the routed capsules plus the head's (section 5.1, figure 5)."""
        total = losses[HEAD]
        for names, index in zip(self.network.capsule_names, route, strict=True):
            total = total + losses[names[index]]
        return total

    def _count_training(self) -> None:
        """Let torchmetrics count the predictions since the last time; once a batch would cost more than the batch."""
        if self._train_predictions:
            predictions = torch.cat([predicted for predicted, _ in self._train_predictions], dim=1)
            target = torch.cat([target for _, target in self._train_predictions])
            self._train_predictions.clear()
            names = self.network.classifier_names
            self.train_metrics.update(dict(zip(names, predictions, strict=True)), target)

    def train_results(self) -> dict[str, Tensor]:
        """Accuracies and errors in this epoch's training so far, over all ranks; every rank has to ask.

        Returns:
            Scalars, as `LearnerMetrics.compute`, without capsules that were pruned.
        """
        self._count_training()
        return self.without_pruned(self.train_metrics.compute())

    def without_pruned(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Leave out what is of capsules that were pruned.

        Args:
            values: By learner, or by a metric's path that ends in the learner's name.

        Returns:
            Those of learners that are there, and of no learner's.
        """
        here = set(self.network.loss_names)
        return {key: value for key, value in values.items() if "." not in key or key.rpartition("/")[2] in here}

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training accuracies, and step schedules that count epochs."""
        results = self.train_results()
        self._log_metrics("train", results, logger=False)
        # Lightning would hand them to the loggers after the epoch's checkpoint was saved: a run that is killed in
        # between and resumed would never have logged them
        metrics = {f"train/{name}": float(value) for name, value in results.items()}
        for logger in self.loggers:
            logger.log_metrics(metrics | {"epoch": self.current_epoch}, step=self.trainer.fit_loop.total_batch_idx)
        self.train_metrics.reset()
        if self.scheduler_interval == "epoch" and (schedulers := self.lr_schedulers()) is not None:
            schedulers.step()  # type: ignore[union-attr]

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Forget what an aborted validation may have left."""
        self.val_metrics.reset()
        self._verdicts = None

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count on one batch of the validation split.

        Args:
            batch: Images ``(batch, channels, height, width)``, normalised, and class indices ``(batch,)``.
            batch_idx: Index of the batch in the split.
        """
        images, target = self._images(batch[0]), batch[1]
        if self.inference_routing != "best_validation":
            self._evaluate(self.val_metrics, images, target)
            return
        verdicts = torch.cat(
            [self.network.judge_routes(images, target), images.new_full((1, 2), len(target), dtype=torch.float32)]
        )
        self._verdicts = verdicts if self._verdicts is None else self._verdicts + verdicts
        # capsules are judged on the route of the time before: which one is best is only known at the end
        route = self.network.selected_route or self.network.history.majority()
        seen = self.network.evaluate(images, target, route)
        capsules = {name: loss for name, loss in seen.losses.items() if name != HEAD}
        self.val_metrics.update({name: seen.logits[name] for name in capsules}, target, capsules)

    def on_validation_epoch_end(self) -> None:
        """Log the split's metrics; under ``"best_validation"`` fix the route, and log the head's on that route."""
        results = self.val_metrics.compute()
        if self._verdicts is not None and not self.trainer.sanity_checking:
            if self._distributed:
                dist.all_reduce(self._verdicts)
            count = self._verdicts[-1, 0]
            errors, losses = self._verdicts[:-1].unbind(1)
            place = self.network.select_route(errors)
            results |= {
                "accuracy": 1 - errors[place] / count,
                "error": 100 * errors[place] / count,
                "loss/head": losses[place] / count,
            }
        self._log_metrics("val", results)

    def on_test_epoch_start(self) -> None:
        """Forget what an aborted test may have left."""
        self.test_metrics.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Count on one batch of the test split.

        Args:
            batch: Images ``(batch, channels, height, width)``, normalised, and class indices ``(batch,)``.
            batch_idx: Index of the batch in the split.

        Returns:
            ``"logits"`` of the head, ``(batch, classes)``, for callbacks.
        """
        return {"logits": self._evaluate(self.test_metrics, self._images(batch[0]), batch[1])}

    def on_test_epoch_end(self) -> None:
        """Log the split's metrics."""
        self._log_metrics("test", self.test_metrics.compute())

    def _evaluate(self, metrics: LearnerMetrics, images: Tensor, target: Tensor) -> Tensor:
        """Count a batch, on the inference route; the head's logits."""
        if not self.evaluate_capsules and self.inference_routing != "oracle":
            logits: Tensor = self.network(images)
            metrics.update({HEAD: logits}, target, {HEAD: cross_entropy(logits, target)})
            return logits
        seen = self.network.evaluate(images, target)
        losses = dict(seen.losses)
        if all(index >= 0 for index in seen.route):
            losses["total"] = self._total(losses, seen.route)
        metrics.update(seen.logits, target, losses)
        return seen.logits[HEAD]

    def _log_metrics(self, stage: str, results: Mapping[str, Tensor], logger: bool | None = None) -> None:
        """Log what torchmetrics has counted over all ranks."""
        prefix = self._prefix(stage)
        for name, value in results.items():
            self.log(
                f"{prefix}/{name}",
                value,
                prog_bar=(stage, name) == ("val", "error"),
                logger=logger,
                # the ranks agree already, and the maximum of equal numbers is that number, to the last bit
                sync_dist=self._distributed,
                reduce_fx="max",
            )

    def _prefix(self, stage: str) -> str:
        """Metrics that labels helped to route say so in their name."""
        return f"{stage}/oracle" if self.inference_routing == "oracle" and stage != "train" else stage

    # -- state and checks ----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse what could not work before anything runs.

        Args:
            stage: Lightning's; in ``"fit"`` the description of the data is kept for checkpoints.

        Raises:
            ValueError: If the strategy splits up parameters or gradients, if a fit would route by ``"oracle"``, if
                losses would be scaled under ``update="immediate"``, or if the data module has other images or classes
                than the model was built for.
        """
        self._train_predictions.clear()
        self.train_metrics.reset()
        self._check_trainer(stage)
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # the default, nobody's choice
            self.trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is None or not hasattr(datamodule, "description"):
            return
        described = datamodule.description()
        refuse_data(described, type(datamodule).__name__, self.in_shape, self.num_classes, "PrimeNet")
        if stage == "fit":
            self.data_description = described

    def _check_trainer(self, stage: str) -> None:
        refuse_strategy(self.trainer.strategy)
        if stage == "fit" and self.inference_routing == "oracle":
            raise ValueError(
                "inference_routing='oracle' routes by the labels under test, which would choose the checkpoint too; "
                "fit with 'majority', then validate or test that run with 'oracle'"
            )
        if stage == "fit" and self.trainer.precision in ("bf16-true", "16-true"):
            rank_zero_warn(
                f"precision={self.trainer.precision!r} keeps weights and optimizer states in half precision, where "
                "small steps are rounded away (Adam's second moment hardly moves); 'bf16-mixed' computes as fast and "
                "learns as float32 does"
            )
        if self.update == "immediate" and getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError(
                "update='immediate' cannot scale fp16 losses, whose factor changes once a batch; use "
                "update='end_of_batch' or precision='bf16-mixed'"
            )

    def _check_options(self) -> None:
        for name, value, known in (
            ("update", self.update, ("end_of_batch", "immediate")),
            ("backward", self.backward_mode, ("block", "capsule", "fused")),
            ("scheduler_interval", self.scheduler_interval, ("epoch", "step")),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown; use {' or '.join(map(repr, known))}")
        if self.schedule is not None and (self.capsule_scheduler or self.head_scheduler):
            raise ValueError(
                f"schedule={self.schedule!r} is for all optimizers, but capsule_scheduler or head_scheduler is given; "
                "use either"
            )
        if self.accumulate_grad_batches < 1:
            raise ValueError(f"accumulate_grad_batches={self.accumulate_grad_batches} must be at least 1")
        if self.gradient_clip_val is not None and self.gradient_clip_val <= 0:
            raise ValueError(f"gradient_clip_val={self.gradient_clip_val} must be positive, or None not to clip")
        if self.update == "immediate" and self.accumulate_grad_batches > 1:
            raise ValueError(
                f"update='immediate' steps after every backward and accumulate_grad_batches="
                f"{self.accumulate_grad_batches} does not; use update='end_of_batch'"
            )
        if self.update == "immediate" and self.backward_mode != "block":
            raise ValueError(
                f"update='immediate' steps after the backward of each capsule by itself, and backward="
                f"{self.backward_mode!r} says otherwise; use backward='block'"
            )
        if self.overlap and (self.update == "immediate" or self.backward_mode == "fused"):
            other = "update='immediate'" if self.update == "immediate" else "backward='fused'"
            raise ValueError(f"overlap=True has nothing to overlap with under {other}; leave it out")

    def on_train_start(self) -> None:
        """Go on with the random numbers of the run that is resumed.

        Raises:
            ValueError: If that run's schedule was laid out over another number of steps.
        """
        if self._schedule_resumed is not None and self._schedule_resumed != self._schedule_steps:
            raise ValueError(
                f"schedule={self.schedule!r} of the resumed run was laid out over {self._schedule_resumed} steps, "
                f"and this fit has {self._schedule_steps}; resume with the same max_epochs, max_steps and data"
            )
        self._schedule_resumed = None
        if self._random_states:
            # with more ranks than before, the new ones take the last one's
            mine = self._random_states[min(self.global_rank, len(self._random_states) - 1)]
            set_random_state(mine, self.device)
        if self._pending_gradients:
            self._restore_gradients(self._pending_gradients)
        self._random_states, self._pending_gradients = [], []

    def _restore_gradients(self, ranks: Sequence[Mapping[str, Tensor]]) -> None:
        """Put back gradients that waited for the rest of their window: each rank's own, or all to the first."""
        mine: dict[str, Tensor] = {}
        if len(ranks) == self.trainer.world_size:
            mine = dict(ranks[self.global_rank])
        elif self.global_rank == 0:
            for gradients in ranks:
                mine |= {name: mine[name] + value if name in mine else value for name, value in gradients.items()}
        for name, parameter in self.network.named_parameters():
            if name in mine:
                parameter.grad = mine[name].to(parameter)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put in what Lightning does not save; every rank has to save, as Lightning wants it anyway.

        That is the description of the data and this class's path, which make a checkpoint enough to predict; of each
        rank the state of the random numbers and gradients that wait for the rest of their window; the predictions
        counted so far in the epoch, and the steps skipped.

        Args:
            checkpoint: Lightning's; added to.

        Raises:
            NonFiniteError: If a parameter is NaN or infinite: the checkpoint before it remains the last one.
        """
        for name, parameters in self.network.learners().items():
            if not all(bool(parameter.isfinite().all()) for parameter in parameters):
                child = self.capsule_optimizers.get(name)
                rate = None if child is None else child.param_groups[0]["lr"]
                raise NonFiniteError(name, None, self.global_step, rate)
        checkpoint["data_description"] = self.data_description
        checkpoint["class_path"] = f"{type(self).__module__}.{type(self).__qualname__}"
        checkpoint["skipped_steps"] = self.skipped_steps
        checkpoint["schedule_steps"] = self._schedule_steps
        self._settle()
        self._count_training()
        mine = {
            "random": get_random_state(self.device),
            "counts": self.train_metrics.counts(),
            # those that wait for the rest of their window; otherwise there are none
            "gradients": {name: p.grad.cpu() for name, p in self.network.named_parameters() if p.grad is not None},
        }
        ranks = gather(mine) if self._distributed else [mine]
        checkpoint["random_states"] = [rank["random"] for rank in ranks]
        checkpoint["pending_gradients"] = [rank["gradients"] for rank in ranks]
        checkpoint["train_counts"] = {
            name: {key: torch.stack([rank["counts"][name][key] for rank in ranks]).sum(0) for key in states}
            for name, states in mine["counts"].items()
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` put in.

        Args:
            checkpoint: What was saved.

        Raises:
            ValueError: If the checkpoint is of another architecture, or of other classes than the data at hand.
        """
        self.data_description = checkpoint.get("data_description")
        if self._trainer is None:
            return
        datamodule = getattr(self.trainer, "datamodule", None)
        present = None if datamodule is None or not hasattr(datamodule, "description") else datamodule.description()
        refuse_classes(self.data_description, present)
        self.network.match_capsules(checkpoint["state_dict"], "network.")
        if self.strict_loading:
            refuse_architecture(checkpoint["state_dict"], self.state_dict())
        if self.trainer.precision == "64-true":
            self.double()  # Lightning does so later for 64-true, when the digits beyond float32 are lost
        if self.trainer.state.fn == "fit":
            self.skipped_steps = checkpoint.get("skipped_steps", 0)
            self._schedule_resumed = checkpoint.get("schedule_steps")
            self._random_states = checkpoint.get("random_states", [])
            self._pending_gradients = checkpoint.get("pending_gradients", [])
            loggers: list[Any] = self.loggers
            for logger in loggers:
                if hasattr(logger, "resume_at") and logger.resume_at is None:
                    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
                    logger.resume_at = progress["total"]["ready"]
            if self.global_rank == 0:
                self.train_metrics.set_counts(checkpoint.get("train_counts", {}))


def _architecture(size: Size, image_size: tuple[int, int], **fields: Any) -> Architecture:
    """The fields of a size, some replaced."""
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items() if value is not None
    }
    return dataclasses.replace(architecture(size, image_size), **given)
