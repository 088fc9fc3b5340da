"""A class that is named takes its own defaults: command line, YAML and Python make the same optimizers."""

import sys

import pytest
import yaml
from torch.optim import SGD, Adam, AdamW, NAdam, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, ExponentialLR, LinearLR, StepLR

from primenet_lightning import PrimeNet
from primenet_lightning.commands import fit
from primenet_lightning.commands.main import main
from primenet_lightning.training.adam import PaperAdam

OPTIMIZERS = [(SGD, {}), (Adam, {}), (AdamW, {}), (NAdam, {"lr": 0.01}), (RMSprop, {"momentum": 0.5})]
SCHEDULERS = [
    (StepLR, {"step_size": 3}),
    (ExponentialLR, {"gamma": 0.5}),
    (CosineAnnealingLR, {"T_max": 7}),
    (LinearLR, {}),
    (CosineAnnealingWarmRestarts, {"T_0": 2}),
]


class Built(Exception):
    """Ends the command once model and data are built."""


@pytest.fixture
def built(monkeypatch):
    """Run the command until its model and data are built; the command."""

    def stop(cli, **kwargs):
        raise Built(cli)

    def until_built(*args):
        monkeypatch.setattr(fit.PrimeNetCLI, "instantiate_trainer", stop)
        with pytest.raises(Built) as ended:
            main(["fit", "--trainer.accelerator=cpu", *args])
        return ended.value.args[0]

    return until_built


def settings(optimizer):
    """Everything that an optimizer trains with, but its parameters."""
    (group,) = optimizer.param_groups
    return type(optimizer), {name: value for name, value in group.items() if name != "params"}


def state(scheduler):
    return type(scheduler), scheduler.state_dict()


def made(model, make):
    parameters = next(iter(model.network.learners().values()))
    return make(parameters)


def as_options(name, kind, arguments):
    options = [f"--model.{name}={kind.__module__}.{kind.__qualname__}"]
    return options + [f"--model.{name}.{argument}={value}" for argument, value in arguments.items()]


@pytest.mark.parametrize(("kind", "arguments"), OPTIMIZERS)
def test_optimizers_are_the_same_from_the_command_line_yaml_and_python(kind, arguments, built, tmp_path):
    path = tmp_path / "config.yaml"
    named = {"class_path": f"torch.optim.{kind.__name__}", "init_args": arguments}
    path.write_text(yaml.safe_dump({"model": {"init_args": {"capsule_optimizer": named}}}))
    expected = settings(made(PrimeNet(), lambda parameters: kind(parameters, **arguments)))
    options = as_options("capsule_optimizer", kind, arguments)
    for args in (options, options[::-1], [f"--config={path}"]):
        model = built(*args).model
        assert settings(made(model, model.optimizer_recipe.optimizer)) == expected
        assert settings(made(model, model.optimizer_recipe.head_optimizer)) == settings(made(model, PaperAdam))


@pytest.mark.parametrize(("kind", "arguments"), SCHEDULERS)
def test_schedules_are_the_same_from_the_command_line_yaml_and_python(kind, arguments, built, tmp_path):
    path = tmp_path / "config.yaml"
    named = {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": arguments}
    # the schedule of the file is another one, with arguments of the same names
    path.write_text(yaml.safe_dump({"model": {"init_args": {"capsule_scheduler": named}}}))
    other = (
        f"--model.capsule_scheduler={{class_path: {StepLR.__module__}.StepLR, init_args: {{step_size: 9, gamma: 0.9}}}}"
    )
    expected = state(kind(made(PrimeNet(), PaperAdam), **arguments))
    options = as_options("capsule_scheduler", kind, arguments)
    tries = [options, [f"--config={path}"]]
    if kind is not StepLR:
        tries.append([other, *options])
    for args in tries:
        model = built(*args).model
        assert state(model.optimizer_recipe.scheduler(made(model, PaperAdam))) == expected


def test_an_optimizer_on_the_command_line_takes_nothing_from_the_file(built, tmp_path):
    path = tmp_path / "config.yaml"
    named = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.5, "weight_decay": 0.5}}
    path.write_text(yaml.safe_dump({"model": {"init_args": {"head_optimizer": named}}}))
    model = built(f"--config={path}", "--model.head_optimizer=torch.optim.SGD").model
    assert settings(made(model, model.optimizer_recipe.head_optimizer)) == settings(made(model, SGD))
    same = built(f"--config={path}", "--model.head_optimizer.lr=0.25").model
    assert settings(made(same, same.optimizer_recipe.head_optimizer))[1]["weight_decay"] == 0.5


def test_a_data_module_takes_its_own_defaults_and_keeps_what_was_given(built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "data_with_defaults", raising=False)
    (tmp_path / "data_with_defaults.py").write_text(
        "from primenet_lightning.datamodules import DigitsDataModule\n"
        "class Small(DigitsDataModule):\n"
        "    def __init__(self, batch_size: int = 7, limit_train: int = 300, seed: int = 0):\n"
        "        super().__init__(batch_size=batch_size, limit_train=limit_train, seed=seed)\n"
    )
    small = built("--data=data_with_defaults.Small").datamodule
    assert (small.batch_size, small.limit_train) == (7, 300)
    given = built("--data.batch_size=9", "--data=data_with_defaults.Small").datamodule
    assert (given.batch_size, given.limit_train) == (9, 300)
