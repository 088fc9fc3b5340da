"""Lightning's Trainer over several processes against one: everything that a fit leaves behind."""

import random
from contextlib import nullcontext

import numpy
import pytest
import torch
from lightning.pytorch import Callback
from tiny import Steps, TinyData, differences, make_model, make_trainer
from torch import nn

from primenet_lightning import CutNet
from primenet_lightning.training.checkpoints import LastCheckpoint


def dropping_net(**options):
    """Four parts with batch norm and dropout."""
    torch.manual_seed(3)
    layers, channels = [], 2
    for width in (4, 6, 6):
        layers.append(nn.Sequential(nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.2)))
        channels = width
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 3))
    return CutNet(model, 2, (8, 8), 3, at=["1", "2", "4"], recipe="greedy", keyed_random=True, **options)


def deep_net(**options):
    """Four blocks of capsules."""
    return make_model(depth=4, pool_every=9, keyed_random=True, **options)


class Shifted(nn.Module):
    """An augmentation that draws from torch's sequence."""

    def forward(self, images):
        return images.roll(int(torch.randint(3, ())), -1)


MODELS = {"dropping": dropping_net, "deep": deep_net}

WAYS = {
    "dropout, accumulation, one cycle": (
        "dropping",
        dict(accumulate_grad_batches=3, schedule="one_cycle", bias_lr_factor=4, test_flips=True),
    ),
    "commit, clip": ("deep", dict(router="commit", router_options={"warm_up": 2}, gradient_clip_val=0.05)),
    "at once": ("deep", dict(step="stage", exchange="stage", router="gate")),
    "concatenate, cosine": (
        "deep",
        dict(router="concatenate", schedule="cosine", evaluate_capsules=False),
    ),
    "min entropy, once a batch": ("deep", dict(inference_routing="min_entropy", backward="batch")),
}


ON_TWO = ("at once", "concatenate, cosine", "min entropy, once a batch")
"""Ways that are tried on two processes; all others on four."""


def fit(folder, *arguments, **options):
    """One fit after seed_everything, by which Lightning seeds several processes anew, and one process not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "5")
        return fit_seeded(folder, *arguments, **options)


def fit_seeded(
    folder, way, devices=1, epochs=3, ckpt_path=None, strategy="local_pipeline", callbacks=(), **trainer_options
):
    """One fit, test and prediction, on as many processes as there are; everything that can be compared."""
    kind, options = WAYS[way]
    steps, last = Steps(), LastCheckpoint(folder, every_n_train_steps=100)
    if devices == 1:
        strategy = "auto"
    options_of_trainer = dict(max_epochs=epochs, devices=devices, strategy=strategy) | trainer_options
    trainer = make_trainer(folder, [steps, last, *callbacks], enable_checkpointing=True, **options_of_trainer)
    without_memory = trainer.init_module() if kind == "deep" else nullcontext()
    with without_memory:
        model = MODELS[kind](**options)
    for seed in (random.seed, numpy.random.seed, torch.manual_seed):
        seed(7)
    data = TinyData(batch_size=20, eval_batch_size=6, augmentation=Shifted())
    trainer.fit(model, data, ckpt_path=ckpt_path)
    checkpoint = torch.load(last.path, weights_only=True) if trainer.is_global_zero else None
    curves = next(callback for callback in trainer.callbacks if hasattr(callback, "validation"))
    result = dict(
        checkpoint=checkpoint,
        outputs=[{key: value for key, value in output.items() if key != "loss"} for output in steps.outputs],
        curves=curves.state_dict(),
        metrics={key: float(value) for key, value in trainer.callback_metrics.items()},
        owned=sorted({name.split(".")[0] for name in model.learner_optimizers}),
        memory=sum(parameter.numel() for parameter in model.parameters() if not parameter.is_meta),
    )
    result["test"] = trainer.test(model, data, verbose=False)
    result["predictions"] = trainer.predict(model, data.test_dataloader())
    return result


@pytest.mark.parametrize("way", list(WAYS))
def test_a_fit_of_several_processes_leaves_what_one_does(request, tmp_path, way):
    processes = 2 if way in ON_TWO else 4
    together = request.getfixturevalue("ranks" if processes == 2 else "four_ranks")
    (tmp_path / "one").mkdir()
    epochs = 3 if "one cycle" in way else 2
    expected = fit(tmp_path / "one", way, 1, epochs)
    results = together(fit, tmp_path, way, processes, epochs)
    first = results[0]
    for key in ("outputs", "curves", "checkpoint", "test", "metrics", "predictions"):
        assert differences(first[key], expected[key], key) == []
    for other in results[1:]:
        assert other["metrics"] == expected["metrics"]
        assert other["test"] == expected["test"]
    owned = [name for result in results[::-1] for name in result["owned"]]
    assert owned == sorted(expected["owned"], key=lambda name: (name == "head", name))
    assert sum(result["memory"] for result in results) == expected["memory"]


class Ask(Callback):
    """Asks one process to stop, with the third batch of the second epoch."""

    def __init__(self, rank):
        self.rank = rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx, trainer.global_rank) == (1, 2, self.rank):
            pl_module.requests.add("interrupt")


def stopped(folder, way, devices, rank):
    """A fit that is asked to stop; what it has done until then."""
    try:
        fit(folder, way, devices, callbacks=[Ask(rank)])
    except SystemExit:
        return torch.load(folder / "last.ckpt", weights_only=True)["loops"]["fit_loop"]
    raise AssertionError("it went on")


def test_a_run_goes_on_with_another_number_of_processes(four_ranks, ranks, tmp_path):
    """From four, asked in the middle of a window through the last process, to two; from one to four."""
    way = "dropout, accumulation, one cycle"
    (tmp_path / "whole").mkdir()
    expected = fit(tmp_path / "whole", way)["checkpoint"]
    loops = four_ranks(stopped, tmp_path, way, 4, 0)[0]
    done = loops["epoch_loop.batch_progress"]["current"]["completed"]
    assert done >= 3
    assert loops["epoch_progress"]["current"]["completed"] == 1
    resumed = ranks(fit, tmp_path, way, 2, 3, tmp_path / "last.ckpt")
    assert differences(resumed[0]["checkpoint"], expected) == []
    stopped(tmp_path, way, 1, 0)
    resumed = four_ranks(fit, tmp_path, way, 4, 3, tmp_path / "last.ckpt")
    assert differences(resumed[0]["checkpoint"], expected) == []


def test_pruned_learners_stay_gone_when_a_run_goes_on(four_ranks, ranks, tmp_path):
    way = "commit, clip"
    (tmp_path / "whole").mkdir()
    expected = fit(tmp_path / "whole", way)["checkpoint"]
    ranks(stopped, tmp_path, way, 2, 1)
    resumed = four_ranks(fit, tmp_path, way, 4, 3, tmp_path / "last.ckpt")
    assert differences(resumed[0]["checkpoint"], expected) == []
