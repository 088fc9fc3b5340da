"""Any module as a network of one stage."""

import torch
from torch import nn
from torch.nn import functional

from primenet_lightning import WholeNetwork
from primenet_lightning.nn.whole import Whole


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))


def test_its_one_learner_has_all_that_is_not_frozen():
    layers = model()
    layers[0].requires_grad_(False)
    network = WholeNetwork(layers, (4,))
    assert list(network.learners()) == network.loss_names == network.classifier_names == ["head"]
    assert [id(p) for p in network.learners()["head"]] == [id(p) for p in layers[1].parameters()]


def test_it_answers_and_is_judged_as_the_module():
    layers = model()
    network = WholeNetwork(layers, (4,))
    x, target = torch.randn(6, 4), torch.arange(6) % 3
    assert torch.equal(network(x), layers(x))
    evaluation = network.evaluate(x, target)
    torch.testing.assert_close(evaluation.losses["head"], functional.cross_entropy(layers(x), target))
    assert evaluation.route == ()
    torch.testing.assert_close(evaluation.total, evaluation.losses["head"])


def test_weights_are_named_after_the_module():
    assert list(WholeNetwork(model(), (4,)).state_dict()) == [f"model.{name}" for name in model().state_dict()]


def test_loss_and_logits_may_be_others():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.one(x), self.other(x)

    def summed(outputs, target):
        return sum(functional.cross_entropy(output, target) for output in outputs)

    module, x, target = Two(), torch.randn(6, 4), torch.arange(6) % 3
    (output,) = Whole(module, summed, logits=lambda outputs: outputs[1]).run_learners(x, target)
    torch.testing.assert_close(output.loss, summed(module(x), target))
    torch.testing.assert_close(output.logits, module.other(x))
    assert not output.logits.requires_grad
    stage = Whole(module, summed, logits=None)
    (output,) = stage.run_learners(x, target)
    assert output.logits is None
    assert torch.equal(stage.hand_on(x, [output], 0), x)
