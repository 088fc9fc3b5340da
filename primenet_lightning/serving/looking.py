"""What a network makes of one image: verdict and map of each local classifier, what goes on, where it leaves."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from primenet_lightning.nn.cutting.network import CutNetwork
from primenet_lightning.nn.cutting.segments import Segment
from primenet_lightning.nn.prime.network import PrimeNetwork
from primenet_lightning.nn.prime.routes import EACH_SUREST, least_entropy
from primenet_lightning.serving.early_exit import EarlyExit
from primenet_lightning.training.learner import LocalLearner


class LocalVerdict(NamedTuple):
    """What a capsule, or a part of a backbone, makes of the image.

    Attributes:
        name: In full, as ``"block0.k3"``.
        maps: Its channels, ``(channels, height, width)``, float32.
        probabilities: By its local classifier, ``(classes,)``; None where that was not kept.
        goes_on: Whether the next stage gets its map.
    """

    name: str
    maps: Tensor
    probabilities: Tensor | None
    goes_on: bool


class Look(NamedTuple):
    """What a network makes of an image.

    Attributes:
        verdicts: Of the stages' learners, the first stage first.
        probabilities: Of the network, ``(classes,)``.
        exit: Index of the exit where the image would leave, from 0; None of a network without exits.
        exits: How many there are; 0 of a network without.
        share: Of the whole network's multiply-adds, that would be spent then; None without exits.
    """

    verdicts: list[LocalVerdict]
    probabilities: Tensor
    exit: int | None
    exits: int
    share: float | None


@torch.no_grad()
def look(model: LocalLearner, image: Tensor, threshold: float = 0.9) -> Look:
    """Look at all that a network makes of an image.

    Args:
        model: In evaluation mode.
        image: Normalised, ``(1, channels, height, width)``.
        threshold: The largest probability that an exit must reach for the image to leave by it.

    Returns:
        Verdicts, the network's answer, and where the image would leave.

    Example:
        >>> from primenet_lightning import pretrained
        >>> seen = look(pretrained("digits"), torch.zeros(1, 1, 8, 8), threshold=2.0)
        >>> [verdict.name for verdict in seen.verdicts], seen.exit, seen.exits
        (['block0.k3', 'block0.k5', 'block1.k3', 'block1.k5'], 2, 3)
    """
    network = model.network
    x = model.images_of(image)
    verdicts: list[LocalVerdict] = []
    if isinstance(network, PrimeNetwork) and network.local:
        verdicts = list(_of_capsules(network, x))
    elif isinstance(network, CutNetwork):
        verdicts = list(_of_segments(network, x))
    probabilities = model(image)[0].float().softmax(0)
    try:
        early = EarlyExit(model, threshold)
    except (ValueError, AttributeError):  # no exits, or their classifiers were not kept
        return Look(verdicts, probabilities, None, 0, None)
    answers = early.classify(image)
    share = answers.multiply_adds / early.full_cost
    return Look(verdicts, probabilities, int(answers.exits[0]), len(early.costs), share)


def _of_capsules(network: PrimeNetwork, x: Tensor) -> Iterator[LocalVerdict]:
    """Each capsule on its block's input, as the network gets there without labels."""
    route = network.inference_route()
    for names, block, choice in zip(network.capsule_names, network.prime_blocks, route, strict=True):
        maps: list[Tensor] = []
        logits: list[Tensor] = []
        for capsule in block.in_order:
            maps.append(capsule.features(x))
            if isinstance(capsule.classifier, nn.Identity):
                continue
            logits.append(capsule.classifier(maps[-1]))
        taken = choice
        if logits and choice == EACH_SUREST and block.router.chooses:
            taken = int(least_entropy(torch.stack(logits))[0])
        elif logits or not block.router.chooses:
            taken = int(block.router.taken(x, logits, choice)[0])
        for index, (name, feature_map) in enumerate(zip(names, maps, strict=True)):
            probabilities = logits[index][0].float().softmax(0) if logits else None
            yield LocalVerdict(name, feature_map[0].float(), probabilities, taken in (index, -1))
        x = block.through(x, choice)


def _of_segments(network: CutNetwork, x: Tensor) -> Iterator[LocalVerdict]:
    """Each part but the last, whose answer is the network's."""
    for stage in network.stages[:-1]:
        assert isinstance(stage, Segment)
        x = stage.through(x)
        classifier = getattr(stage.objective, "classifier", None)
        probabilities = classifier(x)[0].float().softmax(0) if isinstance(classifier, nn.Module) else None
        if x.dim() == 4:
            yield LocalVerdict(stage.name, x[0].float(), probabilities, True)
