"""What a trained PrimeNet of one block says of images, under every way of routing at once."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from primenet_lightning.analysis.passes import in_batches
from primenet_lightning.baselines import majority_vote
from primenet_lightning.datamodules import ImageDataModule, ImageTensors
from primenet_lightning.models.prime import PrimeNet
from primenet_lightning.nn.prime.routes import least_entropy

BATCH = 200
"""Images among which ``"oracle per batch"`` looks for the capsule of least loss: the batch of training."""


class Scores(NamedTuple):
    """Everyone's logits of a split, ``(capsules, images, classes)``: the head's are with each capsule routed."""

    capsules: Tensor
    heads: Tensor
    labels: Tensor


@torch.inference_mode()
def all_scores(model: PrimeNet, data: ImageDataModule, images: ImageTensors) -> Scores:
    """Run every capsule of a network of one block, and the head on the map of each; scores come on the CPU."""
    network = model.eval().network
    (names,) = network.capsule_names
    capsules: list[Tensor] = []
    heads: list[Tensor] = []
    labels: list[Tensor] = []
    for pixels, target in in_batches(images, BATCH):
        x, y = model.images_of(data.normalize(pixels.to(model.device))), target.to(model.device)
        routed = [network.evaluate(x, y, route=(k,)).logits for k in range(len(names))]
        capsules.append(torch.stack([routed[0][name] for name in names]).float().cpu())
        heads.append(torch.stack([logits["head"] for logits in routed]).float().cpu())
        labels.append(target)
    return Scores(torch.cat(capsules, 1), torch.cat(heads, 1), torch.cat(labels))


def routing_errors(scores: Scores, majority: int, names: list[str], batch: int = BATCH) -> dict[str, float]:
    """Test errors in % under every way of routing at inference; only those called oracle see the labels.

    ``"majority"``; ``"fixed k3"``, ...; ``"random"`` (one capsule per image, mean over all draws); ``"min_entropy"``
    (each image takes its surest capsule); ``"vote"`` of the local classifiers, without a head; ``"mean of heads"``
    (probabilities averaged over all routes); ``"oracle per batch"`` and ``"oracle per sample"`` (equation 4 with the
    labels under test), and both with ``", own verdict"``: not the head answers, which knows the map of one capsule
    best, but the local classifier of the capsule chosen.
    """
    capsules, heads, labels = scores
    everyone = torch.arange(len(labels))
    right, own_right = heads.argmax(2) == labels, capsules.argmax(2) == labels
    losses = torch.stack([cross_entropy(logits, labels, reduction="none") for logits in capsules])
    by_sample = losses.argmin(0)
    by_batch = torch.cat([part.mean(1).argmin().expand(part.shape[1]) for part in torch.split(losses, batch, 1)])
    correct = {"majority": right[majority]}
    for name, answers in zip(names, right, strict=True):
        correct[f"fixed {name}"] = answers
    correct |= {
        "random": right,
        "min_entropy": right[least_entropy(capsules), everyone],
        "vote": majority_vote(list(capsules)) == labels,
        "mean of heads": heads.softmax(2).mean(0).argmax(1) == labels,
        "oracle per batch": right[by_batch, everyone],
        "oracle per sample": right[by_sample, everyone],
        "oracle per batch, own verdict": own_right[by_batch, everyone],
        "oracle per sample, own verdict": own_right[by_sample, everyone],
    }
    return {name: round(100 * (1 - float(answers.double().mean())), 6) for name, answers in correct.items()}
