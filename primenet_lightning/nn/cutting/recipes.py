"""Recipes by name: how the parts of a model learn, as published."""

from typing import Literal

from torch import nn

from primenet_lightning.arguments import at_least, with_options
from primenet_lightning.nn.classifiers import PooledClassifier
from primenet_lightning.nn.cutting.classifiers import ClassifierChoice, Place, classifier_at, name_and_options
from primenet_lightning.nn.cutting.features import normalised_maps
from primenet_lightning.nn.cutting.following import Blocks, Ending
from primenet_lightning.nn.cutting.learning import Course, Recipe, along
from primenet_lightning.nn.cutting.neighbours import Averaged, Overlapping
from primenet_lightning.nn.cutting.objectives import Classified, Objective, Reconstructed, Similar

RecipeName = Literal["greedy", "soft_targets", "dgl", "auglocal", "predsim", "infopro", "man", "overlap"]
"""Names of the recipes, see `recipe`."""


class Greedy(Recipe):
    """Greedy layerwise learning: cross-entropy of a small classifier (Belilovsky et al. 2019).

    E. Belilovsky, M. Eickenberg, E. Oyallon: Greedy Layerwise Learning Can Scale to ImageNet, ICML 2019.

    Args:
        classifier: The local classifier, see `classifier_at`.
        label_smoothing: See `Recipe`.

    Example:
        >>> from primenet_lightning.nn.cutting.features import Features
        >>> Greedy().objective(Place(0, 2, Features((8, 4, 4), "maps"), (1, 8, 8), 10)).loss
        CrossEntropy(label_smoothing=0.0)
    """

    def __init__(self, classifier: ClassifierChoice = "pooled", label_smoothing: Course = 0.0) -> None:
        super().__init__(label_smoothing)
        self.classifier = classifier

    def objective(self, place: Place) -> Objective:
        """Build classifier and cross-entropy; see `Recipe.objective`."""
        return Classified(classifier_at(self.classifier, place), self.smoothing_at(place))


class SoftTargets(Greedy):
    """`Greedy` with softer targets for early parts, which then keep more than their own labels need.

    Args:
        classifier: The local classifier, see `classifier_at`.
        label_smoothing: See `Recipe`.
    """

    def __init__(self, classifier: ClassifierChoice = "pooled", label_smoothing: Course = (0.2, 0.0)) -> None:
        super().__init__(classifier, label_smoothing)


class DGL(Greedy):
    """Decoupled greedy learning: cross-entropy of the classifier MLP-SR (Belilovsky et al. 2020).

    E. Belilovsky, M. Eickenberg, E. Oyallon: Decoupled Greedy Learning of CNNs, ICML 2020.

    Args:
        classifier: The local classifier, see `classifier_at`.
        label_smoothing: See `Recipe`.
    """

    def __init__(self, classifier: ClassifierChoice = "mlp", label_smoothing: Course = 0.0) -> None:
        super().__init__(classifier, label_smoothing)


class AugLocal(Recipe):
    """AugLocal: the classifier is made of fresh copies of layers that follow (Ma et al. 2024).

    C. Ma, J. Wu, C. Si, K. C. Tan: Scaling Supervised Local Learning with Augmented Auxiliary Networks, ICLR 2024.

    Args:
        depth: Blocks in the classifier of the first part.
        pyramid: The last local part's share of that depth; in between in line.
        width: Their share of the channels, see `LayersThatFollow`; or that of the first and of the last local part.
        budget: Most multiply-adds, see `LayersThatFollow`.
        label_smoothing: See `Recipe`.
        blocks: Which blocks are copied, see `LayersThatFollow`.
        ending: What gives the logits, see `LayersThatFollow`.
        direct: Whether blocks take the channels that there are, see `LayersThatFollow`.

    Raises:
        ValueError: If ``depth`` is below 1, or ``pyramid`` out of range.
    """

    def __init__(
        self,
        depth: int = 2,
        pyramid: float = 0.5,
        width: Course = 1.0,
        budget: float | None = None,
        label_smoothing: Course = 0.0,
        blocks: Blocks = "evenly",
        ending: Ending = "average",
        direct: bool = False,
    ) -> None:
        super().__init__(label_smoothing)
        at_least(1, depth=depth)
        if not 0 < pyramid <= 1:
            raise ValueError(f"pyramid={pyramid} must be above 0 and at most 1: the last local part's share of depth")
        self.depth = depth
        self.pyramid = pyramid
        self.width = width
        self.budget = budget
        self.blocks: Blocks = blocks
        self.ending: Ending = ending
        self.direct = direct

    def depth_at(self, place: Place) -> int:
        """Tell how many blocks the classifier of a part has.

        Args:
            place: Where the part stands.

        Returns:
            The depth, at least 1.
        """
        return max(1, round(along([self.depth, self.depth * self.pyramid], place)))

    def objective(self, place: Place) -> Objective:
        """Build the classifier and cross-entropy; see `Recipe.objective`."""
        options = {
            "depth": self.depth_at(place),
            "width": along(self.width, place),
            "budget": self.budget,
            "blocks": self.blocks,
            "ending": self.ending,
            "direct": self.direct,
        }
        classifier = classifier_at({"layers_that_follow": options}, place)
        return Classified(classifier, self.smoothing_at(place))


class Predsim(Recipe):
    """Prediction and similarity: 0.01 of cross-entropy, 0.99 of similarity matching (Nøkland and Eidnes 2019).

    A. Nøkland, L. H. Eidnes: Training Neural Networks with Local Error Signals, ICML 2019. The classifier is one dense
    layer, of weights that begin with 0, over maps that are averaged to as large a grid as ``features`` allow.

    Args:
        weight: Of the similarity loss.
        features: Most features that the dense layer sees.
        projected: Whether features are compared through a 3x3 convolution of the loss's own; not those of tokens.
        label_smoothing: See `Recipe`.
    """

    def __init__(
        self, weight: float = 0.99, features: int = 2048, projected: bool = True, label_smoothing: Course = 0.0
    ) -> None:
        super().__init__(label_smoothing)
        at_least(1, features=features)
        self.weight = weight
        self.features = features
        self.projected = projected

    def grid_at(self, place: Place) -> int:
        """Tell to how large a grid the maps of a part are averaged.

        Args:
            place: Where the part stands.

        Returns:
            Its height and width; no more than those of the map.
        """
        largest = min(place.features.map_size)
        while largest > 1 and place.features.channels * largest**2 > self.features:
            largest -= 1
        return largest

    def objective(self, place: Place) -> Objective:
        """Build the dense layer, and the loss of predictions and similarity; see `Recipe.objective`."""
        pooled = PooledClassifier(place.features.channels, place.num_classes, self.grid_at(place))
        dense = pooled[-1]
        assert isinstance(dense, nn.Linear)
        nn.init.zeros_(dense.weight)
        classifier = normalised_maps(place.features).append(pooled)
        projected = self.projected and place.features.layout in ("maps", "maps_last")
        return Similar(place, classifier, self.weight, projected, self.smoothing_at(place))


class InfoPro(Recipe):
    """InfoPro: reconstruction of the images keeps the information that later parts need (Wang et al. 2021).

    Y. Wang, Z. Ni, S. Song, L. Yang, G. Huang: Revisiting Locally Supervised Learning: an Alternative to End-to-end
    Training, ICLR 2021. With two parts the weights are the paper's, 5 and 0.5; with 16 it has ``reconstruction=[5,
    0.5]`` and ``prediction=[0, 1]``.

    Args:
        reconstruction: Weight of the reconstruction, of the first and of the last local part.
        prediction: Weight of the cross-entropy, likewise.
        classifier: The local classifier, see `classifier_at`.
        mean: That was taken from pixels between 0 and 1 when they were normalised.
        std: That they were then divided by.
        label_smoothing: See `Recipe`.
    """

    def __init__(
        self,
        reconstruction: Course = (5.0, 0.5),
        prediction: Course = (0.5, 1.0),
        classifier: ClassifierChoice = "conv",
        mean: float = 0.5,
        std: float = 0.5,
        label_smoothing: Course = 0.0,
    ) -> None:
        super().__init__(label_smoothing)
        self.reconstruction = reconstruction
        self.prediction = prediction
        self.classifier = classifier
        self.mean = mean
        self.std = std

    def objective(self, place: Place) -> Objective:
        """Build decoder, classifier and both losses; see `Recipe.objective`."""
        return Reconstructed(
            place,
            classifier_at(self.classifier, place),
            along(self.reconstruction, place),
            along(self.prediction, place),
            self.mean,
            self.std,
            self.smoothing_at(place),
        )


class MAN(Recipe):
    """Momentum auxiliary network: the classifier sees the features through copies of the next block (Su et al. 2024).

    J. Su, C. Cai, F. Zhu, C. He, X. Xu, D. Guan, C. Si: Momentum Auxiliary Network for Supervised Local Learning, ECCV
    2024; the formula is that of `Averaged`, as in the authors' code.

    Args:
        momentum: Of the averaged copy, each batch.
        classifier: The local classifier behind the copies, see `classifier_at`.
        label_smoothing: See `Recipe`.

    Raises:
        ValueError: If ``momentum`` is out of range.
    """

    def __init__(
        self, momentum: float = 0.995, classifier: ClassifierChoice = "mlp", label_smoothing: Course = 0.0
    ) -> None:
        super().__init__(label_smoothing)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} must be at least 0 and below 1: what the average keeps each batch")
        self.momentum = momentum
        self.classifier = classifier

    def objective(self, place: Place) -> Objective:
        """Build the copies, and the classifier behind them; without a block that follows, the classifier alone."""
        if not place.following:
            return Classified(classifier_at(self.classifier, place), self.smoothing_at(place))
        block = place.following[0]
        behind = place._replace(features=block.gives, following=place.following[1:])
        judge = Classified(classifier_at(self.classifier, behind), self.smoothing_at(place))
        return Averaged(block.part, judge, self.momentum)


class Overlap(Recipe):
    """HPFF's cascade: each part learns from a loss behind the next one too: **not** strictly local (Su et al. 2024).

    J. Su, C. He, F. Zhu, X. Xu, D. Guan, C. Si: HPFF: Hierarchical Locally Supervised Learning with Patch Feature
    Fusion, ECCV 2024, without its fusion of patches.

    Args:
        cascade: Weight of the loss behind the next part; the part's own has the rest.
        classifier: The local classifiers, see `classifier_at`.
        label_smoothing: See `Recipe`.

    Raises:
        ValueError: If ``cascade`` is out of range.
    """

    strictly_local = False

    def __init__(
        self, cascade: float = 0.999, classifier: ClassifierChoice = "mlp", label_smoothing: Course = 0.0
    ) -> None:
        super().__init__(label_smoothing)
        if not 0 <= cascade <= 1:
            raise ValueError(f"cascade={cascade} must be from 0, the part's own loss alone, to 1")
        self.cascade = cascade
        self.classifier = classifier

    def objective(self, place: Place) -> Objective:
        """Build both classifiers and the losses; behind the last part its own logits are judged."""
        classifier, smoothing = classifier_at(self.classifier, place), self.smoothing_at(place)
        if place.next_part is None or place.next_features is None:
            return Classified(classifier, smoothing)
        next_classifier: nn.Module = nn.Identity()
        if place.part + 2 < place.parts:
            next_classifier = classifier_at(self.classifier, place._replace(features=place.next_features))
        return Overlapping(classifier, place.next_part, next_classifier, self.cascade, smoothing)


RECIPES: dict[str, type[Recipe]] = {
    "greedy": Greedy,
    "soft_targets": SoftTargets,
    "dgl": DGL,
    "auglocal": AugLocal,
    "predsim": Predsim,
    "infopro": InfoPro,
    "man": MAN,
    "overlap": Overlap,
}
"""The recipes by name."""


def recipe(choice: ClassifierChoice | Recipe, classifier: ClassifierChoice | None = None) -> Recipe:
    """Make a recipe by name.

    Args:
        choice: ``"greedy"``, ``"soft_targets"``, ``"dgl"``, ``"auglocal"``, ``"predsim"``, ``"infopro"``, ``"man"`` or
            ``"overlap"``; ``{name: options}``; or a recipe.
        classifier: The local classifier, instead of the recipe's own; None for that.

    Returns:
        The recipe.

    Raises:
        ValueError: If the name is unknown, if the recipe has no such option, or has no choice of a local classifier.

    Example:
        >>> recipe({"predsim": {"weight": 0.5}}).weight
        0.5
    """
    if isinstance(choice, Recipe):
        if classifier is not None:
            raise ValueError(f"local_classifier={classifier!r}: say so in the recipe, {type(choice).__name__}, itself")
        return choice
    name, options = name_and_options("recipe", choice)
    if name not in RECIPES:
        raise ValueError(f"recipe={name!r} is unknown; use one of {', '.join(map(repr, RECIPES))}")
    if classifier is not None:
        if name in ("auglocal", "predsim"):
            raise ValueError(f"local_classifier={classifier!r} cannot be had with recipe={name!r}, which has its own")
        options["classifier"] = classifier
    return with_options("recipe", name, RECIPES[name], options, "recipe")
