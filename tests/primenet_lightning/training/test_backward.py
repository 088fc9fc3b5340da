"""Who sends losses backward: Lightning where that does more than autograd."""

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from tiny import TinyData, make_model, make_trainer, same, state, with_scaler

from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.backward import backward_of


def trainer_of(callbacks=(), **options):
    options = dict(accelerator="cpu", logger=False, enable_checkpointing=False) | options
    return Trainer(callbacks=list(callbacks), **options)


class Listens(Callback):
    def __init__(self):
        self.heard = 0

    def on_after_backward(self, trainer, pl_module):
        self.heard += 1


def test_autograd_does_it_where_nobody_listens():
    assert backward_of(make_model(), trainer_of()) is torch.autograd.backward
    assert backward_of(make_model(), trainer_of(precision="bf16-mixed")) is torch.autograd.backward


@pytest.mark.parametrize(
    "options", [{"callbacks": [Listens()]}, with_scaler(), {"strategy": "ddp"}], ids=["callback", "scaler", "ddp"]
)
def test_lightning_does_it_where_it_does_more(options):
    model = make_model()
    assert backward_of(model, trainer_of(**options)) == model.manual_backward


@pytest.mark.parametrize("name", ["manual_backward", "backward", "on_before_backward"])
def test_lightning_does_it_where_the_model_has_a_method_of_its_own(name):
    model = make_model()
    kind = type(model)
    own = type("Own", (kind,), {name: lambda self, loss: getattr(kind, name)(self, loss)})
    model.__class__ = own
    assert backward_of(model, trainer_of()) == model.manual_backward


def test_both_ways_train_to_the_same_weights_and_hooks_are_called(tmp_path):
    weights = []
    listens = Listens()
    for callbacks in ([], [listens]):
        torch.manual_seed(0)
        model = make_model()
        make_trainer(tmp_path, callbacks, max_epochs=1).fit(model, TinyData())
        weights.append(state(model))
    assert same(*weights)
    assert listens.heard > 0


def test_nobody_looks_for_a_gpu_when_parameters_on_the_cpu_are_updated(monkeypatch):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = PaperAdam([parameter])
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *args: pytest.fail("it was looked for"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("it was looked for"))
    if not hasattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check"):
        pytest.skip("this version of torch calls it by another name")
    parameter.grad = torch.ones(3)
    optimizer.step()
    assert not torch.equal(parameter, torch.ones(3))
