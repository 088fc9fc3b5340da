"""Stages made by hand, in a row: what the engine runs without knowing any network of the package."""

import itertools

import torch
from torch import nn
from torch.nn import functional

from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.stages import LearnerOutput, Stage
from primenet_lightning.nn.whole import Whole


class Dense(Stage):
    """A layer and its own classifier; with two layers, the one of less loss goes on."""

    chooses = True

    def __init__(self, name, inputs, outputs, classes=3, layers=1):
        super().__init__(name)
        self.in_shape, self._out_shape = (inputs,), (outputs,)
        self.layers = nn.ModuleDict({f"layer{i}": nn.Linear(inputs, outputs) for i in range(layers)})
        self.classifiers = nn.ModuleDict({f"layer{i}": nn.Linear(outputs, classes) for i in range(layers)})

    @property
    def out_shape(self):
        return self._out_shape

    def learners(self):
        return {
            self.full_name(name): [*layer.parameters(), *self.classifiers[name].parameters()]
            for name, layer in self.layers.items()
        }

    def run_learners(self, x, target, share=None):
        for name, layer in self.layers.items():
            features = layer(x.detach()).tanh()
            logits = self.classifiers[name](features)
            loss = functional.cross_entropy(logits, target)
            yield LearnerOutput(self.full_name(name), loss, logits.detach(), features.detach())
            del features, logits, loss

    def choose(self, x, outputs, values, share=None):
        return min(range(len(values)), key=values.__getitem__)

    def through(self, x, choice=0):
        return list(self.layers.values())[choice](x).tanh()


class Row(StagedNetwork):
    """Dense stages and a linear head."""

    def __init__(self, widths=(4, 6, 5), classes=3, layers=1):
        super().__init__()
        self.parts = nn.ModuleList(
            Dense(f"stage{i}", inputs, outputs, classes, layers)
            for i, (inputs, outputs) in enumerate(itertools.pairwise(widths))
        )
        self.head = nn.Linear(widths[-1], classes)
        self.routes = []

    @property
    def stages(self):
        return [*self.parts, Whole(self.head)]

    @property
    def in_shape(self):
        return self.parts[0].in_shape

    @property
    def loss_names(self):
        return list(self.learners())

    def learned(self, route):
        self.routes.append(route)


def make_row(seed=0, **options):
    torch.manual_seed(seed)
    return Row(**options)


def make_batches(count, size=6, inputs=4, classes=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, inputs, generator=generator), torch.randint(classes, (size,), generator=generator))
        for _ in range(count)
    ]
