"""LocalLearner: the one LightningModule that trains. It knows stages and learners, and no network."""

from abc import ABC
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch import distributed as dist
from torch.optim import Optimizer

from primenet_lightning.arguments import plain, whole_number
from primenet_lightning.nn.numbers import NonFiniteError
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.backward import backward_of
from primenet_lightning.training.checkpoints import use_atomic_checkpoints
from primenet_lightning.training.evaluator import Batch
from primenet_lightning.training.exchange import ALONE, Replicas
from primenet_lightning.training.loss_log import LossLog
from primenet_lightning.training.optimizer_recipe import OptimizerRecipe
from primenet_lightning.training.optimizers import LRSchedulerCallable, OptimizerCallable
from primenet_lightning.training.optimizing import Optimizing
from primenet_lightning.training.refusals import (
    description_of,
    refuse_automatic_options,
    refuse_data,
    refuse_divided,
    refuse_options,
    refuse_synchronized_norms,
    refuse_trainer,
)
from primenet_lightning.training.runner import Per, Rhythm, StageRunner
from primenet_lightning.training.schedules import Schedule
from primenet_lightning.training.section import DividesNetworks
from primenet_lightning.training.step_output import REQUESTS, StepOutput
from primenet_lightning.training.stopping import GracefulStop
from primenet_lightning.training.views import Views
from primenet_lightning.training.whitening import WhitenFirstLayer, whitening_layers


class LocalLearner(Optimizing, ABC):
    """Trains the stages of a network, each learner by its own loss and optimizer.

    Optimization is manual: the stages run in turn, each one's losses go backward and its activations are freed, its map
    goes on detached, and at the end of the batch all optimizers step. On several devices (strategy ``"ddp"``) losses,
    gradients and batch-norm statistics are averaged over the global batch.

    A subclass says which network, in `configure_network`; its constructor ends with ``self.build()``, which calls it.

    Logged by `LossLog`, attached by itself: ``train/loss/<name>`` by step. Logged here by epoch, for train, val and
    test: what `Evaluator` names, of training the losses to ``callback_metrics`` only.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        optimizer: Makes the optimizer of one learner from its parameters. The default is the paper's: Adam, learning
            rate 2e-4, betas (0.99, 0.999). No part of a checkpoint's hyperparameters, whose loading must run no code.
        head_optimizer: Makes the head's; None takes ``optimizer``.
        lr: Learning rate of all learners, in place of what their optimizers begin with; None leaves those.
        scheduler: Makes the learning rate schedule of one learner's optimizer.
        head_scheduler: Makes the head's; None for none.
        schedule: ``"cosine"``, ``"step"``, ``"one_cycle"`` or ``"triangular"`` over the whole fit, for all optimizers,
            see `primenet_lightning.training.schedules`; instead of the two above.
        scheduler_interval: Schedules count ``"epoch"`` or ``"step"`` (optimizer steps).
        local: False trains the same network end to end, by the head's loss alone: the twin that local learning is
            compared with.
        backward: ``"stage"``: one backward per stage, whose activations then are freed. ``"learner"``: one backward per
            learner, before the next one runs. ``"batch"``: one backward for all, at the memory of the whole network.
            All give the same numbers.
        exchange: On several devices, ``"batch"``: all gradients are averaged together before the step. ``"stage"``:
            those of each stage while the next one runs.
        step: ``"batch"``, or ``"stage"``: as in the paper, the optimizers of a stage step, and their gradients are
            freed, right after its backward. Both give the same numbers.
        accumulate_grad_batches: Batches an optimizer step; their gradients are averaged, also in the epoch's last,
            shorter window.
        gradient_clip_val: Largest norm of the gradient of one learner; None does not clip.
        bias_lr_factor: At which multiple of their learner's rate the biases of normalization layers learn; their weight
            decay is divided by it, so that a step's decay is as before. airbench's is 64.
        test_flips: Whether a test also counts the answers to each image and its mirror image averaged, as
            ``test/error_flips``; see `primenet_lightning.training.views.Views`. Validation does not.
        test_shifts: Pixels by which images are shifted for that, along the diagonal; with it the metric is
            ``test/error_flips_shifts``, or ``test/error_shifts``. 0 for no shifts.
        keyed_random: Whether the random numbers of a stage, such as dropout's, are keyed by seed, stage and batch, see
            `KeyedRandom`; otherwise they depend on what ran before. None is yes in a pipeline of several processes,
            which needs it, and no elsewhere, unless the run that is resumed had it so.

    Attributes:
        network: A row of stages.
        in_shape: Channels, height and width of the images.
        exchange: With the other processes.
        data_description: Of the data trained on, from `ImageDataModule.description`; None before the fit.
        requests: What this process has been asked to do after the batch under way, of `REQUESTS`; all processes hear
            of it in `StepOutput`.
        skipped_steps: Optimizer steps that fp16's scaler left out because a gradient was not finite.

    Raises:
        ValueError: For options that are impossible, alone or together.

    Example:
        >>> import torch
        >>> from primenet_lightning.nn.whole import WholeNetwork
        >>> class Linear(LocalLearner):
        ...     def __init__(self, **learning):
        ...         super().__init__(**learning)
        ...         self.build()
        ...     def configure_network(self):
        ...         layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, self.num_classes))
        ...         return WholeNetwork(layers, self.in_shape)
        >>> Linear(num_classes=3)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """

    UNSAVED: ClassVar[tuple[str, ...]] = ("optimizer", "head_optimizer", "scheduler", "head_scheduler")
    """Arguments that no checkpoint holds: functions, which cannot be loaded with ``weights_only=True``."""

    LOGS_HYPERPARAMETERS: ClassVar[bool] = True
    """Whether loggers are told the arguments."""

    def __init__(
        self,
        in_channels: int = 1,
        image_size: tuple[int, int] = (8, 8),
        num_classes: int = 10,
        optimizer: OptimizerCallable = PaperAdam,
        head_optimizer: OptimizerCallable | None = None,
        lr: float | None = None,
        scheduler: LRSchedulerCallable | None = None,
        head_scheduler: LRSchedulerCallable | None = None,
        schedule: Schedule | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        local: bool = True,
        backward: Per = "stage",
        exchange: Literal["stage", "batch"] = "batch",
        step: Literal["stage", "batch"] = "batch",
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = None,
        bias_lr_factor: float = 1,
        test_flips: bool = False,
        test_shifts: int = 0,
        keyed_random: bool | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=list(self.UNSAVED), logger=self.LOGS_HYPERPARAMETERS)
        self.hparams.update(plain(dict(self.hparams)))  # numpy's numbers would keep a checkpoint from being loaded
        self.automatic_optimization = False
        refuse_options(
            lr,
            scheduler_interval,
            schedule,
            (scheduler, head_scheduler),
            step,
            accumulate_grad_batches,
            gradient_clip_val,
        )
        # what it learns from, and by which optimizers
        if len(image_size) != 2:
            raise ValueError(f"image_size={image_size} is no size; give height and width in pixels")
        height, width = image_size
        self.in_shape = (
            whole_number(1, in_channels=in_channels),
            whole_number(1, image_size=height),
            whole_number(1, image_size=width),
        )
        self.num_classes = whole_number(2, num_classes=num_classes)
        self.test_views = Views(test_flips, test_shifts)
        self.test_views.refuse_images(self.in_shape)
        self.example_input_array = torch.zeros(1, *self.in_shape)  # Lightning's summary counts operations with it
        self.optimizer_recipe = OptimizerRecipe(optimizer, head_optimizer, scheduler, head_scheduler, bias_lr_factor)
        self.lr = lr
        self.schedule: Schedule | None = schedule
        self.scheduler_interval = "step" if schedule is not None else scheduler_interval
        # when it goes backward, exchanges and steps
        self.local = local
        self.rhythm = Rhythm(backward, exchange, step)
        self.accumulate_grad_batches = accumulate_grad_batches
        self.gradient_clip_val = gradient_clip_val
        self.keyed_random = keyed_random
        # what a run leaves in it
        self.requests: set[str] = set()

    # -- extension points ----------------------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[Callback]:
        """Attach the loss log, the graceful stop, and where a layer wants it its whitening, unless they are there.

        Returns:
            The callbacks that are missing.

        Raises:
            ValueError: If the Trainer has options that the engine takes itself. This is Lightning's first call.
        """
        if self.trainer.state.fn == "fit":
            refuse_automatic_options(self.trainer, self)
        present: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        kinds: list[type[Callback]] = [LossLog, GracefulStop]
        if whitening_layers(self):
            kinds.append(WhitenFirstLayer)
        return [kind() for kind in kinds if not any(isinstance(callback, kind) for callback in present)]

    # -- training ------------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Go on where the run that is resumed was saved, and make the engine ready.

        Raises:
            ValueError: If that run's schedule was laid out over another number of steps.
        """
        super().on_train_start()
        scheduler: Any = self.lr_schedulers()
        for change in self.resumption.begin(self._composite(), scheduler):
            rank_zero_info(change)
        self.runner = self.configure_runner()

    def configure_runner(self) -> StageRunner:
        """Build what runs a batch through the stages."""
        return StageRunner(
            self.network,
            self._composite(),
            rhythm=self.rhythm,
            backward=backward_of(self, self.trainer),
            exchange=self.exchange,
            clip=self.gradient_clip_val,
            section=self.section,
            random=self.key_random_numbers(),
        )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Prune what stages have decided against, where no gradient waits for the rest of its window."""
        if batch_idx % self.accumulate_grad_batches or not self.network.decided:
            return
        self._late.catch_up(self.section.classifier_names)  # while all that answered are there
        dropped = self.network.prune()
        self.drop_learners(dropped)

    def training_step(self, batch: Batch, batch_idx: int) -> StepOutput:
        """Learn from one batch, stage by stage.

        Args:
            batch: Images ``(batch, channels, height, width)``, normalised, and class indices ``(batch,)``.
            batch_idx: Index of the batch in the epoch.

        Returns:
            Losses and route, as numbers.

        Raises:
            NonFiniteError: If a loss is NaN or infinite; names learner, step and learning rate, and comes before any
                parameter changes (with ``step="stage"``: before any of that stage or a later one).
        """
        images, target = self.images_and_target(batch)
        ends = self.window_ends(batch_idx)
        share = self.exchange.share(len(target), target.device, self._flags())
        if self.runner.random is not None:
            self.runner.random.step = self.trainer.fit_loop.total_batch_idx
        # learn, stage by stage
        try:
            with self._without_reducer():
                record = self.runner.run(images, target, share, window=self.accumulate_grad_batches, applies=ends)
        except NonFiniteError as error:
            raise self.located(error) from None
        # count
        self._late.add(self.section.classifier_names, record.answers, target)
        self._epoch_losses.add(record.values, round(len(target) / share.weight))
        # apply
        if ends:
            self._mend_short_window(batch_idx)
            self._step_all()
        # tell
        self._call_forward_hooks(images, record.answers)
        raised = share.any(self._flags())
        requests = [request for request, asked in zip(REQUESTS, raised, strict=True) if asked]
        return {
            "loss": torch.tensor(record.total),
            "losses": record.values | {"total": record.total},
            "route": list(record.route),
            "requests": requests,
        }

    def _call_forward_hooks(self, images: Tensor, answers: Tensor) -> None:
        """Call the hooks of `forward`, which training never calls: W&B's ``watch`` logs the parameters in one."""
        for hook in self._forward_hooks.values():
            hook(self, (images,), answers)

    def _flags(self) -> list[bool]:
        return [request in self.requests for request in REQUESTS]

    def located(self, error: NonFiniteError) -> NonFiniteError:
        """Tell of a number that is not finite when it came, and at which learning rate."""
        child = self.learner_optimizers.get(error.name)
        rate = None if child is None else child.param_groups[0]["lr"]
        return NonFiniteError(error.name, error.value, self.global_step, rate)

    def _without_reducer(self) -> AbstractContextManager[Any]:
        """Keep DDP from averaging at each backward: it would send the whole model each time."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip, learner by learner; gradients have been unscaled by now."""
        self.runner.clip()

    def train_results(self) -> dict[str, Tensor]:
        """Accuracies and errors in this epoch's training so far, over all ranks; every rank has to ask.

        Returns:
            Scalars, as `LearnerMetrics.compute`, without learners that were pruned.
        """
        self._late.catch_up(self.section.classifier_names)
        return self.results_of(self.train_metrics)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training accuracies, and step schedules that count epochs."""
        results = self.train_results()
        self._log_metrics("train", results, logger=False)
        losses = self.section.of_last(self.without_pruned(self._epoch_losses.means()))
        self._log_metrics("train/loss", losses, logger=False)  # loggers are told the losses by `LossLog`
        # Lightning would hand them to the loggers after the epoch's checkpoint was saved: a run that is killed in
        # between and resumed would never have logged them
        metrics = {f"train/{name}": float(value) for name, value in results.items()}
        for logger in self.loggers:
            logger.log_metrics(metrics | {"epoch": self.current_epoch}, step=self.trainer.fit_loop.total_batch_idx)
        self.train_metrics.reset()
        self._epoch_losses.reset()
        self.step_schedulers("epoch")

    # -- checks --------------------------------------------------------------------------------------------------------

    def on_validation_model_zero_grad(self) -> None:
        """Keep the gradients: a validation may fall between two batches whose gradients accumulate."""

    def on_validation_model_eval(self) -> None:
        """Average what ranks have of their own before it is used."""
        self.exchange.settle(self.network)
        self.section.settle()
        super().on_validation_model_eval()

    def setup(self, stage: str) -> None:
        """Refuse what could not work before anything runs, and learn who else takes part.

        Args:
            stage: Lightning's; in ``"fit"`` the description of the data is kept for checkpoints.

        Raises:
            ValueError: As `check`.
        """
        self._late.reset()
        self._epoch_losses.reset()
        several = self.trainer.world_size > 1 and dist.is_available() and dist.is_initialized()
        self.exchange = Replicas() if several else ALONE
        self.check(self.trainer, stage)
        if isinstance(self.trainer.strategy, DividesNetworks):
            self.section, self.exchange = self.trainer.strategy.divide(self)
        self.fill()
        use_atomic_checkpoints(self.trainer.strategy)
        if stage == "fit":
            described = description_of(self.trainer)
            self.data_description = self.data_description if described is None else described

    def check(self, trainer: Trainer, stage: str, datamodule: LightningDataModule | None = None) -> None:
        """Refuse what could not work with this Trainer and its data.

        Args:
            trainer: The Trainer.
            stage: Lightning's.
            datamodule: The data; None takes the Trainer's.

        Raises:
            ValueError: If the Trainer has options that the engine takes itself, if the strategy splits up parameters or
                gradients, if losses would be scaled under ``step="stage"``, or if the data module has other images or
                classes than the model was built for.
        """
        if stage == "fit":
            refuse_automatic_options(trainer, self)
            refuse_synchronized_norms(trainer, self.network)
        refuse_trainer(trainer, stage, self.rhythm)
        if isinstance(trainer.strategy, DividesNetworks):
            trainer.strategy.check(trainer, self)
        elif self.deferred is None:
            refuse_divided(self.network)
        described = description_of(trainer, datamodule)
        if described is not None:
            data = type(datamodule or trainer.datamodule).__name__  # type: ignore[attr-defined]
            refuse_data(described, data, self.in_shape, self.num_classes, type(self).__name__)
