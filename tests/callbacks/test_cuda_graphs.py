"""What is captured, and when; there is no GPU here, so that a stand-in takes the compiler's place."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from tiny import TinyData, differences, make_model, make_trainer, state
from torch import nn

from primenet_lightning.callbacks import CUDAGraphs


class Phases(Callback):
    """Says whether the Trainer trains or validates."""

    now = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.now = "train"

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.now = "validate"


@pytest.fixture
def compiler(monkeypatch):
    """Counts calls through it by phase, and the steps that are marked."""
    seen = SimpleNamespace(phases=Phases(), calls=[], modes=[], limits=[], steps=0)

    def compile_(module, mode, dynamic):
        def call(*args, **options):
            seen.calls.append((seen.phases.now, module))
            return module._call_impl(*args, **options)

        seen.modes.append((mode, dynamic))
        seen.limits.append(torch._dynamo.config.cache_size_limit)
        module._compiled_call_impl = call

    def mark():
        seen.steps += 1

    monkeypatch.setattr(nn.Module, "compile", compile_)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", mark)
    return seen


@pytest.fixture
def on_gpu(monkeypatch):
    """Lets the callback believe that there is one."""
    original = CUDAGraphs.on_fit_start

    def on_fit_start(self, trainer, pl_module):
        strategy = SimpleNamespace(root_device=torch.device("cuda"))
        original(self, SimpleNamespace(strategy=strategy, datamodule=trainer.datamodule), pl_module)
        assert trainer.datamodule.copies_ahead

    monkeypatch.setattr(CUDAGraphs, "on_fit_start", on_fit_start)


def fitted(folder, *callbacks):
    torch.manual_seed(0)
    model, trainer = make_model(), make_trainer(folder, callbacks, max_epochs=2, limit_val_batches=1)
    trainer.fit(model, TinyData())
    return model, trainer


def test_training_steps_are_captured_and_nothing_else(compiler, on_gpu, tmp_path):
    callback, limit = CUDAGraphs(), torch._dynamo.config.cache_size_limit
    model, trainer = fitted(tmp_path, compiler.phases, callback)
    modules = model.network.called_modules()
    assert compiler.modes == [("reduce-overhead", False)] * len(modules)
    assert {phase for phase, _ in compiler.calls} == {"train"}
    assert {module for _, module in compiler.calls} == {*modules}
    assert compiler.steps == trainer.global_step > 0
    assert callback.compiled == []
    assert all(module._compiled_call_impl is None for module in modules)
    # torch takes the calls of all modules for one function, and keeps eight versions of a function
    assert set(compiler.limits) == {4 * len(modules)}
    assert 4 * len(modules) > torch._dynamo.config.cache_size_limit == limit
    assert differences(state(model), state(fitted(tmp_path)[0])) == []


def test_on_a_cpu_nothing_is_done(compiler, tmp_path):
    fitted(tmp_path, CUDAGraphs())
    assert compiler.modes == []
    assert compiler.steps == 0


def test_after_an_error_the_network_is_as_before(compiler, on_gpu, tmp_path):
    class Fails(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            raise ZeroDivisionError

    model, trainer = make_model(), make_trainer(tmp_path, [CUDAGraphs(), Fails()])
    with pytest.raises(ZeroDivisionError):
        trainer.fit(model, TinyData())
    assert all(module._compiled_call_impl is None for module in model.network.called_modules())


def test_gradients_that_accumulate_are_refused(tmp_path):
    model, trainer = make_model(accumulate_grad_batches=2), make_trainer(tmp_path, [CUDAGraphs()])
    with pytest.raises(ValueError, match="accumulate_grad_batches=2 does not go with CUDAGraphs"):
        trainer.fit(model, TinyData())


def test_another_model_is_refused():
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))
    with pytest.raises(TypeError, match="CUDAGraphs captures the stages of a model of this package, and Lightning"):
        CUDAGraphs().on_fit_start(trainer, LightningModule())
