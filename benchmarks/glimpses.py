"""DT-RAM after a fixed number of glimpses, each answered by a classifier that was fitted to just that number."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from primenet_lightning.analysis.passes import in_batches
from primenet_lightning.baselines import DTRAMNet
from primenet_lightning.datamodules import ImageDataModule, ImageTensors

RATE = 2e-3
"""Of Adam, in one cycle: as DT-RAM's own."""


def errors_of_fixed_steps(model: DTRAMNet, data: ImageDataModule, steps: int | None = None) -> list[float]:
    """Fit a classifier to each number of glimpses, and test it.

    The classifier that learned on with the stop policy sees mostly what the policy stops at, and so would do the fixed
    numbers injustice. Here the network is frozen, and each number has a copy of that classifier, which learns on from
    what the network knows after so many glimpses, for as many optimizer steps as the stop policy had.

    Args:
        model: Whose fit is over.
        data: Set up, with the training images of the fit.
        steps: Optimizer steps; None takes those of the stop policy.

    Returns:
        Test errors in %, after one glimpse, after two, and so on.
    """
    network = model.eval().network
    if steps is None:
        steps = round(network.position.steps * network.stage.options.stop_share)
    known, labels = _after_each_glimpse(model, data, data.train_dataset)
    classifiers = nn.ModuleList(copy.deepcopy(network.ram.classifier) for _ in range(network.steps))
    optimizer = torch.optim.Adam(classifiers.parameters(), RATE)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, max(steps, 5), cycle_momentum=False)
    generator = torch.Generator().manual_seed(data.seed)
    for _ in range(steps):
        chosen = torch.randint(len(labels), (data.batch_size,), generator=generator)
        optimizer.zero_grad()
        # each classifier learns by its own loss: their parameters are disjoint
        losses = [cross_entropy(logits, labels[chosen]) for logits in _answers(classifiers, known[chosen])]
        torch.autograd.backward(losses)
        optimizer.step()
        rates.step()
    known, labels = _after_each_glimpse(model, data, data.test_dataset)
    with torch.no_grad():
        answers = [logits.argmax(1) for logits in _answers(classifiers, known)]
    return [100 * (answer != labels).double().mean().item() for answer in answers]


def _answers(classifiers: nn.ModuleList, known: Tensor) -> list[Tensor]:
    """Each number's logits, from what is known after it, ``(images, steps, width)``."""
    return [classifier(of_step) for classifier, of_step in zip(classifiers, known.unbind(1), strict=True)]


@torch.no_grad()
def _after_each_glimpse(model: DTRAMNet, data: ImageDataModule, split: ImageTensors) -> tuple[Tensor, Tensor]:
    """What the network knows of a split after each glimpse, ``(images, steps, width)``, and the labels."""
    states: list[Tensor] = []
    labels: list[Tensor] = []
    for pixels, target in in_batches(split, 500):
        images = model.images_of(data.normalize(pixels))
        hidden: Tensor | None = None
        after: list[Tensor] = []
        for _ in range(model.network.steps):
            hidden, _ = model.network.ram.look_on_average(images, hidden)
            after.append(hidden)
        states.append(torch.stack(after, 1))
        labels.append(target)
    return torch.cat(states), torch.cat(labels)
