"""CutNet: any backbone, trained in parts that learn locally."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from primenet_lightning.models.backbones import TRANSFORMING, build_backbone
from primenet_lightning.models.pretrained import Pretrained
from primenet_lightning.nn.cutting.balance import Balance
from primenet_lightning.nn.cutting.network import CutNetwork, UncutNetwork
from primenet_lightning.nn.deferring import is_deferring
from primenet_lightning.nn.first_weights import needs_first_weights
from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.learner import LocalLearner
from primenet_lightning.training.optimizers import OptimizerCallable

Choice = str | dict[str, dict[str, Any]]
"""A name, or ``{name: options}``."""


class CutNet(Pretrained):
    """Any backbone, cut into parts that learn by themselves.

    How the parts learn is said by a recipe; which gradients, exchanges and steps there are by `LocalLearner`. Metrics
    are named as there, learners ``part0``, ``part1``, ..., ``head``.

    The backbone's own modules are trained: ``net.backbone`` is an ordinary model before, while and after it learns.

    Args:
        backbone: The name of a model of torchvision, or of timm where it is installed; or a module, from images to
            logits, which then has to be given to ``load_from_checkpoint`` again. A subclass may override
            `configure_backbone` instead.
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        parts: Into how many parts it is cut; None for 2, unless ``at`` says where.
        at: Names of modules, in the order in which they run, that the second part and those after it begin with.
        balance: What parts are to cost alike, their local classifiers included: ``"multiply_adds"``, ``"time"`` or
            saved ``"activations"``.
        recipe: How the parts learn: ``"greedy"``, ``"soft_targets"``, ``"dgl"``, ``"auglocal"``, ``"predsim"``,
            ``"infopro"``, ``"man"`` or ``"overlap"``, or ``{name: options}``; see
            `primenet_lightning.nn.cutting.recipes`.
        local_classifier: Instead of the recipe's own: ``"pooled"``, ``"mlp"``, ``"layers_that_follow"``, ``"flatten"``
            or ``"conv"``, or ``{name: options}``; see `primenet_lightning.nn.cutting.classifiers.classifier_at`.
        pretrained: Whether the backbone begins with the weights that its library has for it; or a file of weights.
        frozen: Names of modules of the backbone that do not learn.
        backbone_options: Further arguments of the backbone's builder.
        label_smoothing: Of the model's own loss, from which the last part learns, and the whole twin: the share of the
            targets that is spread over all classes. Those of the other parts are the recipe's.
        optimizer: Makes the optimizer of one learner from its parameters.
        **learning: Of `LocalLearner`: ``schedule``, ``local``, ``backward``, .... ``local=False`` is the twin, the
            same backbone, of the same first weights, trained end to end.

    Raises:
        ValueError: If the backbone is unknown or cannot be cut so, or for options that are impossible.

    Example:
        >>> import torch
        >>> net = CutNet("resnet18", image_size=(32, 32), parts=4, recipe="dgl")
        >>> net.network.loss_names
        ['part0', 'part1', 'part2', 'head']
        >>> net(torch.zeros(2, 3, 32, 32)).shape, type(net.backbone).__name__
        (torch.Size([2, 10]), 'ResNet')
    """

    network: CutNetwork | UncutNetwork

    UNSAVED: ClassVar[tuple[str, ...]] = LocalLearner.UNSAVED

    def __init__(
        self,
        backbone: str | nn.Module = "resnet18",
        in_channels: int = 3,
        image_size: tuple[int, int] = (32, 32),
        num_classes: int = 10,
        parts: int | None = None,
        at: Sequence[str] = (),
        balance: Balance = "multiply_adds",
        recipe: Choice = "dgl",
        local_classifier: Choice | None = None,
        pretrained: bool | str = False,
        frozen: Sequence[str] = (),
        backbone_options: dict[str, Any] | None = None,
        label_smoothing: float = 0.0,
        optimizer: OptimizerCallable = PaperAdam,
        **learning: Any,
    ) -> None:
        if isinstance(backbone, nn.Module):
            self._refuse_options_of_names(pretrained, backbone_options)
            self.UNSAVED = (*LocalLearner.UNSAVED, "backbone")  # type: ignore[misc]  # a checkpoint has its weights
        super().__init__(
            in_channels=in_channels, image_size=image_size, num_classes=num_classes, optimizer=optimizer, **learning
        )
        self.parts = parts
        self.at = list(at)
        self.balance: Balance = balance
        self.local_recipe = recipe  # self.recipe is that of the optimizers
        self.local_classifier = local_classifier
        self.pretrained = pretrained
        self._needs_first_weights = needs_first_weights()  # a pipeline builds it again, elsewhere
        self.frozen = list(frozen)
        self.backbone_options = backbone_options
        self.label_smoothing = label_smoothing
        if isinstance(backbone, nn.Module) and is_deferring():
            raise ValueError(
                "backbone is a module, which has its memory already and cannot be built again; under "
                "Trainer.init_module give a backbone by name, or override configure_backbone"
            )
        self._given_backbones = [backbone]  # in a list: it is registered once, inside the network
        self.build()

    @staticmethod
    def _refuse_options_of_names(pretrained: bool | str, backbone_options: dict[str, Any] | None) -> None:
        for argument, value in (("pretrained", pretrained), ("backbone_options", backbone_options)):
            if value:
                raise ValueError(f"{argument}={value!r} is for a backbone by name; load or build the module yourself")

    # -- extension points ----------------------------------------------------------------------------------------------

    def configure_backbone(self) -> nn.Module:
        """Build the model, from images of ``self.in_shape`` to ``self.num_classes`` logits."""
        (backbone,) = self._given_backbones
        if isinstance(backbone, nn.Module):
            self._given_backbones.clear()
            return backbone
        options = dict(self.backbone_options or {})
        pretrained = self.pretrained if self._needs_first_weights else False
        if self.pretrained is True and backbone.rpartition("/")[2] in TRANSFORMING:
            options.setdefault("transform_input", True)  # as those weights learned, whether they are read or follow
        return build_backbone(backbone, self.in_shape, self.num_classes, pretrained, options or None)

    def configure_network(self) -> StagedNetwork:
        """Cut the backbone into parts; or leave it whole, for the twin.

        Returns:
            The network.

        Raises:
            ValueError: If it gives another number of logits than there are classes.
        """
        backbone = self.configure_backbone()
        if not self.local:
            return UncutNetwork(backbone, self.in_shape, self.frozen, self.label_smoothing)
        parts = self.parts
        if parts is None and not self.at:
            parts = 2
        network = CutNetwork(
            backbone,
            self.in_shape,
            self.at,
            parts,
            self.balance,
            self.local_recipe,
            self.local_classifier,
            self.frozen,
            self.label_smoothing,
        )
        if network.num_classes != self.num_classes:
            raise ValueError(
                f"num_classes={self.num_classes}, but the backbone gives {network.num_classes} logits an image"
            )
        return network

    # -- what it has made ----------------------------------------------------------------------------------------------

    @property
    def backbone(self) -> nn.Module:
        """The model itself, an ordinary one: it predicts, exports and is saved as if trained end to end."""
        return self.network.backbone

    @property
    def strictly_local(self) -> bool:
        """Whether no gradient crosses from one part to another."""
        return self.network.strictly_local
