"""What each precision applies against the true gradient, in float32 and without any scaling."""

import copy
import statistics

import pytest
import torch
from lightning.pytorch import Callback
from stepping import run_stages
from tiny import SGDStep, Steps, TinyData, make_model, make_trainer, same, state, with_scaler

from primenet_lightning import PrimeNet, StageRunner

RATE = 0.01
SGD = dict(depth=2, image_size=(16, 16), capsule_optimizer=SGDStep(RATE), head_optimizer=SGDStep(RATE))


class Bigger(TinyData):
    image_size = (16, 16)

    def load_arrays(self):
        images, labels, *test = super().load_arrays()
        return images.repeat(1, 1, 2, 2), labels, test[0].repeat(1, 1, 2, 2), test[1]


class Applied(Callback):
    """What each learner's SGD applied, over the true gradient of the batch."""

    def __init__(self):
        self.ratios, self.scales, self.moved = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before = {n: [p.detach().float().clone() for p in ps] for n, ps in pl_module.network.learners().items()}
        twin = copy.deepcopy(pl_module.network).float()
        for stage in run_stages(twin, batch[0].float(), batch[1]):
            sum(stage.losses.values()).backward()
        self.true = {
            n: [torch.zeros_like(p) if p.grad is None else p.grad for p in ps] for n, ps in twin.learners().items()
        }
        if (scaler := getattr(trainer.precision_plugin, "scaler", None)) is not None:
            self.scales.append(scaler.get_scale())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        ratios = {}
        for name, parameters in pl_module.network.learners().items():
            applied = [(b - p.detach().float()) / RATE for b, p in zip(self.before[name], parameters, strict=True)]
            true = torch.cat([g.flatten() for g in self.true[name]])
            ratios[name] = float(torch.cat([a.flatten() for a in applied]) @ true / (true @ true))
        self.ratios.append(ratios)


class Noting:
    """A loss that notes its own dtype."""

    def __init__(self, loss, dtypes):
        self.loss, self.dtypes = loss, dtypes

    def __call__(self, logits, target):
        loss = self.loss(logits, target)
        self.dtypes.add(loss.dtype)
        return loss


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("32-true", 1e-3), ("bf16-mixed", 0.05), ("bf16-true", 0.2), ("16-mixed", 0.08)]
)
def test_each_learner_gets_its_true_gradient(precision, tolerance, tmp_path):
    """The ratio of a single step is a rough one, the median of all a fine one.

    In bf16-true the step itself is rounded to 8 bits. In half precision the gradient of a pooling goes to another pixel
    where two are equal once they are rounded.
    """
    applied, dtypes = Applied(), set()
    model = make_model(**SGD)
    for block in model.network.blocks:
        block.loss = Noting(block.loss, dtypes)
    options = with_scaler() if precision == "16-mixed" else dict(precision=precision)
    make_trainer(tmp_path, [applied], max_epochs=3, **options).fit(model, Bigger(batch_size=20))
    assert len(applied.ratios) == 12
    for ratios in applied.ratios:
        assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0), abs=tolerance)
    medians = [statistics.median(ratios[name] for ratios in applied.ratios) for name in applied.ratios[0]]
    assert medians == pytest.approx([1.0] * len(medians), abs=tolerance / 10)
    assert dtypes == {torch.float32}
    if precision == "16-mixed":
        assert applied.scales == [2.0 ** (4 + step) for step in range(12)]  # it grew at each step
        assert model.skipped_steps == 0


def test_an_overflow_skips_the_batch_for_all_and_then_goes_on(tmp_path):
    """The scale is far too large at first; each skipped batch halves it."""
    applied, steps = Applied(), Steps()
    model = make_model(**SGD)
    trainer = make_trainer(tmp_path, [applied, steps], max_epochs=6, **with_scaler(2.0**24, growth_interval=2000))
    trainer.fit(model, Bigger(batch_size=20))
    skipped = [all(ratio == 0 for ratio in ratios.values()) for ratios in applied.ratios]
    assert skipped[0]
    assert not skipped[-1]
    assert applied.scales == [2.0 ** (24 - sum(skipped[:step])) for step in range(24)]
    for skip, ratios in zip(skipped, applied.ratios, strict=True):
        if not skip:
            assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0), abs=0.02)
    assert model.skipped_steps == sum(skipped)
    assert trainer.global_step == 24  # batches, the skipped ones too


def inf_in_one_capsule(folder, rank, devices, path):
    """Rank ``rank`` has an infinite gradient in one capsule at the third step."""
    model = make_model(PrimeNet, **SGD)

    class Poison(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.now = trainer.global_step == 2 and trainer.global_rank == rank

    poison, seen = Poison(), []
    weight = model.network.blocks[0].capsules["k5"].classifier[1].weight
    weight.register_hook(lambda gradient: gradient * torch.inf if poison.now else gradient)

    class Keep(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append({name: p.detach().clone() for name, p in pl_module.network.named_parameters()})

    options = with_scaler() | (dict(devices=devices, strategy="ddp") if devices > 1 else {})
    trainer = make_trainer(folder, [poison, Keep()], max_epochs=2, **options)
    trainer.fit(model, Bigger(batch_size=20))
    trainer.save_checkpoint(path)
    return seen, model.skipped_steps, trainer.precision_plugin.scaler.get_scale()


@pytest.mark.parametrize("devices", [1, 2])
def test_an_inf_in_one_capsule_of_one_rank_skips_the_batch_everywhere(devices, ranks, tmp_path):
    path = tmp_path / "it.ckpt"
    if devices == 1:
        results = [inf_in_one_capsule(tmp_path, 0, 1, path)]
    else:
        results = ranks(inf_in_one_capsule, tmp_path, 1, 2, path)
    for seen, skipped, scale in results:
        assert skipped == 1
        assert scale == 2.0**4 * 2 ** (7 - 1)  # grew seven times, halved once
        assert same(seen[1], seen[2])
        for name, value in seen[3].items():
            assert not torch.equal(value, seen[2][name]) or not value.any(), name
        for here, there in zip(seen, results[0][0], strict=True):
            assert same(here, there)
    assert torch.load(path, weights_only=True)["skipped_steps"] == 1


@pytest.mark.parametrize("precision", ["bf16-true", "32-true"])
def test_half_precision_weights_come_with_a_warning(precision, tmp_path, recwarn):
    make_trainer(tmp_path, precision=precision, max_steps=1, limit_val_batches=0).fit(make_model(), TinyData())
    said = [w for w in recwarn if "'bf16-mixed' computes as fast and learns as float32 does" in str(w.message)]
    assert len(said) == (precision == "bf16-true")


def fit(folder, precision):
    model = make_model(PrimeNet, **SGD)
    options = with_scaler() if precision == "16-mixed" else dict(precision=precision)
    make_trainer(folder, devices=2, strategy="ddp", **options).fit(model, Bigger(batch_size=20))
    return state(model)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "16-mixed"])
def test_ranks_are_equal_in_every_precision(precision, ranks, tmp_path):
    first, second = ranks(fit, tmp_path, precision)
    assert same(first, second)


def test_a_backward_pass_is_not_under_autocast():
    """A folded kernel is a product in float32, and so are those of its backward pass."""
    batch = torch.randn(6, 2, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    network = make_model().network
    twin = copy.deepcopy(network)
    with torch.autocast("cpu", torch.bfloat16):
        StageRunner(network).run(*batch)
        stages = list(run_stages(twin, *batch))
    for stage in stages:
        sum(stage.losses.values()).backward()
    for (name, parameter), other in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad), name
