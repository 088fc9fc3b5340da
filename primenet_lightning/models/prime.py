"""PrimeNet: parallel capsules, routed, under the engine of local learning."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from primenet_lightning.models.pretrained import Pretrained
from primenet_lightning.nn.classifiers import LocalClassifier
from primenet_lightning.nn.losses import LocalLossKind
from primenet_lightning.nn.names import HEAD
from primenet_lightning.nn.prime.architecture import Size, customized
from primenet_lightning.nn.prime.block import PrimeBlock
from primenet_lightning.nn.prime.building import Plan
from primenet_lightning.nn.prime.capsules import Capsule
from primenet_lightning.nn.prime.network import PrimeNetwork
from primenet_lightning.nn.prime.router import Router
from primenet_lightning.nn.prime.routes import InferenceRouting
from primenet_lightning.nn.prime.shapes import MapShape
from primenet_lightning.nn.prime.twin import EndToEndNetwork
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.evaluator import Batch
from primenet_lightning.training.learner import LocalLearner
from primenet_lightning.training.optimizer_recipe import refuse_two_optimizers
from primenet_lightning.training.optimizers import LRSchedulerCallable, OptimizerCallable
from primenet_lightning.training.version_0_1 import refuse_renamed


class PrimeNet(Pretrained):
    """PrimeNet, trained locally: each capsule by its own optimizer from its own cross-entropy (section 3.5).

    How it learns is `LocalLearner`'s; the map of the capsule with the least loss goes on detached.

    Extension is by subclass: override one of ``configure_capsules``, ``configure_projection``, ``configure_router``,
    ``configure_head``, ``configure_blocks``, ``configure_network``. This constructor calls them: a subclass's own
    arguments they read from ``self.hparams``, since its attributes are not yet set.

    Metrics are named as in `LocalLearner`, learners ``block0.k3``, ..., ``head``. Under the ``"oracle"`` route the
    names begin with ``val/oracle/`` and ``test/oracle/``.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        size: ``"compact"`` (the paper's claimed cost) or ``"paper"`` (the authors' widths); the six arguments from
            ``reduce_channels`` to ``stride`` replace single fields of it.
        depth: Number of blocks.
        pool_every: A 2x2 max pool ends every so many blocks, or the blocks of these indices; never the last.
        kernel_sizes: One capsule per scale, odd, the same in every block.
        reduce_channels: Channels after each capsule's 1x1 convolution, of all blocks or one number per block; 0 leaves
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
            (``"fixed"``), or one's at random (``"random"``); or the import path of a `Router` of one's own. See
            `primenet_lightning.nn.prime.routers`.
        router_options: Arguments of the router, as ``{"warm_up": 500}``, or ``{"capsule": 1}`` of ``"fixed"``.
        local_loss: What capsules learn from: ``"cross_entropy"`` (the paper's), ``"label_smoothing"``,
            ``"similarity"`` or ``"predsim"``, see `primenet_lightning.nn.losses`.
        local_loss_options: Arguments of that loss, as ``{"weight": 0.5}``.
        optimizer: Makes the optimizer of every learner, in place of the two that follow; None leaves those. See also
            ``lr`` of `LocalLearner`.
        capsule_optimizer: Makes the optimizer of one capsule from its parameters (and that of a projection that
            learns locally). The default is the paper's: Adam, learning rate 2e-4, betas (0.99, 0.999).
        head_optimizer: Makes the head's.
        capsule_scheduler: Makes the learning rate schedule of one capsule's optimizer.
        routing_window: Over how many of the latest batches the majority route is taken.
        inference_routing: Route without labels, see `PrimeNetwork`.
        evaluate_capsules: Whether validation and test run every capsule, for its loss and accuracy, or only the route.
        **learning: Of `LocalLearner`: ``lr``, ``schedule``, ``local``, ``backward``, ``exchange``, ``step``, ....

    Raises:
        ValueError: For options that are impossible.

    Example:
        >>> model = PrimeNet(in_channels=1, image_size=(28, 28), num_classes=10)
        >>> model.network.loss_names
        ['block0.k3', 'block0.k5', 'block0.k7', 'head']
        >>> model.eval()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    network: PrimeNetwork

    UNSAVED: ClassVar[tuple[str, ...]] = (*LocalLearner.UNSAVED, "capsule_optimizer", "capsule_scheduler")

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
        router: str = "least_loss",
        router_options: dict[str, Any] | None = None,
        local_loss: LocalLossKind = "cross_entropy",
        local_loss_options: dict[str, Any] | None = None,
        optimizer: OptimizerCallable | None = None,
        capsule_optimizer: OptimizerCallable = PaperAdam,
        head_optimizer: OptimizerCallable = PaperAdam,
        capsule_scheduler: LRSchedulerCallable | None = None,
        routing_window: int = 256,
        inference_routing: InferenceRouting = "majority",
        evaluate_capsules: bool = True,
        **learning: Any,
    ) -> None:
        refuse_renamed(learning)
        if optimizer is not None:
            refuse_two_optimizers(optimizer, capsule_optimizer=capsule_optimizer, head_optimizer=head_optimizer)
            capsule_optimizer = head_optimizer = optimizer
        super().__init__(
            in_channels=in_channels,
            image_size=image_size,
            num_classes=num_classes,
            optimizer=capsule_optimizer,
            head_optimizer=head_optimizer,
            scheduler=capsule_scheduler,
            **learning,
        )
        self.architecture = customized(
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
        self.depth = depth
        self.pool_every = pool_every
        self.kernel_sizes = tuple(kernel_sizes)
        self.routing_window = routing_window
        self.evaluate_capsules = evaluate_capsules
        self._inference_routing: InferenceRouting = inference_routing
        self._verdicts: Tensor | None = None
        self.build()

    # -- extension points ----------------------------------------------------------------------------------------------

    @property
    def plan(self) -> Plan:
        """What the network is built from, as far as nothing is overridden."""
        return Plan(self.architecture, self.in_shape, self.num_classes, self.kernel_sizes, self.depth, self.pool_every)

    def configure_capsules(self, index: int, in_shape: MapShape) -> Mapping[str, Capsule]:
        """Build the capsules of one block. **The** method to override for a new backbone.

        Args:
            index: The block's index, 0 first.
            in_shape: Channels, height and width of the block's input.

        Returns:
            Capsules by name; all maps must agree in shape.
        """
        return self.plan.capsules(index, in_shape)

    def configure_projection(self, index: int, in_shape: MapShape, map_size: tuple[int, int]) -> nn.Module | None:
        """Build the projection of one block; its map must have the capsules' height and width.

        Args:
            index: The block's index, 0 first.
            in_shape: Channels, height and width of the block's input.
            map_size: Height and width of the capsules' maps.

        Returns:
            The projection, or None for none.
        """
        return self.plan.projection(index, in_shape, map_size)

    def configure_router(self, index: int) -> Router:
        """Build what decides what goes on of one block's maps; each block has a router of its own.

        Args:
            index: The block's index, 0 first.

        Returns:
            The router.
        """
        return self.plan.router(index)

    def configure_blocks(self) -> list[PrimeBlock]:
        """Build all blocks, first to last."""
        return self.plan.blocks(self.configure_capsules, self.configure_projection, self.configure_router)

    def configure_head(self, in_shape: MapShape) -> nn.Module:
        """Build the classifier head.

        Args:
            in_shape: Channels, height and width of the last block's output.

        Returns:
            A module from that to logits.
        """
        return self.plan.head(in_shape)

    def configure_network(self) -> PrimeNetwork:
        """Build the network from blocks and head."""
        blocks = self.configure_blocks()
        head = self.configure_head(blocks[-1].out_shape)
        kind = PrimeNetwork if self.local else EndToEndNetwork
        return kind(blocks, head, self._inference_routing, self.routing_window, self.pool_every)

    @property
    def capsule_optimizers(self) -> dict[str, Optimizer]:
        """The optimizers by name, ``"block0.k3"``, ..., ``"head"``, once the Trainer has made them."""
        return self.learner_optimizers

    @property
    def inference_routing(self) -> InferenceRouting:
        """How the network routes without labels; may be set at any time."""
        return self.network.inference_routing

    @inference_routing.setter
    def inference_routing(self, mode: InferenceRouting) -> None:
        self.network.inference_routing = mode

    # -- evaluation ----------------------------------------------------------------------------------------------------

    @property
    def evaluates_learners(self) -> bool:
        """Whether validation and test run every capsule; ``"oracle"`` has to."""
        return self.evaluate_capsules or self.inference_routing == "oracle"

    def metric_prefix(self, stage: str) -> str:
        """Metrics that labels helped to route say so in their name."""
        return f"{stage}/oracle" if self.inference_routing == "oracle" and not stage.startswith("train") else stage

    def on_validation_epoch_start(self) -> None:
        """Forget what an aborted validation may have left."""
        super().on_validation_epoch_start()
        self._verdicts = None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count on one batch of the validation split; under ``"best_validation"`` try every joint route.

        Args:
            batch: Images ``(batch, channels, height, width)``, normalised, and class indices ``(batch,)``.
            batch_idx: Index of the batch in the split.
        """
        if self.inference_routing != "best_validation":
            super().validation_step(batch, batch_idx)
            return
        images, target = self.images_and_target(batch)
        count = images.new_full((1, 2), len(target), dtype=torch.float32)
        verdicts = torch.cat([self.network.judge_routes(images, target), count])
        self._verdicts = verdicts if self._verdicts is None else self._verdicts + verdicts
        # on the route of the time before: which one is best is only known at the end
        route = self.network.selected_route or self.network.history.majority()
        evaluation = self.network.evaluate(images, target, route)
        losses = {name: loss for name, loss in evaluation.losses.items() if name != HEAD}
        self.val_metrics.update({name: evaluation.logits[name] for name in losses}, target, losses)

    def on_validation_epoch_end(self) -> None:
        """Log the split's metrics; under ``"best_validation"`` fix the route, and log the head's on that route."""
        results = self.results_of(self.val_metrics)
        if self._verdicts is not None and not self.trainer.sanity_checking:
            verdicts = self.exchange.sum(self._verdicts)
            count = verdicts[-1, 0]
            errors, losses = verdicts[:-1].unbind(1)
            place = self.network.select_route(errors)
            results["accuracy"] = 1 - errors[place] / count
            results["error"] = 100 * errors[place] / count
            results["loss/head"] = losses[place] / count
        self._log_metrics("val", results)

    def check(self, trainer: Trainer, stage: str, datamodule: LightningDataModule | None = None) -> None:
        """Refuse what could not work, such as a fit that would route by ``"oracle"``.

        Args:
            trainer: The Trainer.
            stage: Lightning's.
            datamodule: The data; None takes the Trainer's.

        Raises:
            ValueError: As `LocalLearner.check`, and for such a fit.
        """
        if stage == "fit" and self.inference_routing == "oracle":
            raise ValueError(
                "inference_routing='oracle' routes by the labels under test, which would choose the checkpoint too; "
                "fit with 'majority', then validate or test that run with 'oracle'"
            )
        super().check(trainer, stage, datamodule)
