"""Stacks that learn locally, through the Trainer and through YAML."""

import pytest
import torch
import yaml
from lightning.pytorch import seed_everything
from tiny import TinyData, make_model, make_trainer
from torch import nn
from torch.optim import Adam

from primenet_lightning import PrimeNet
from primenet_lightning.analysis.cost import count_cost, count_inference
from primenet_lightning.analysis.views import view_capsules
from primenet_lightning.callbacks import FeatureMaps, RoutingMonitor
from primenet_lightning.callbacks.cost_summary import cost_table
from primenet_lightning.datamodules import DigitsDataModule
from primenet_lightning.nn.classifiers import FollowingLayers
from primenet_lightning.nn.prime.routers import ROUTERS


class LinearHead(PrimeNet):
    """What the head sees is as good as what the blocks make of the image."""

    def configure_head(self, in_shape):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_shape[0], self.num_classes))


def adam(parameters):
    return Adam(parameters, lr=1e-2)


def digits_error(folder, frozen, epochs=10):
    seed_everything(0, verbose=False)
    model = LinearHead(
        depth=2,
        kernel_sizes=(3, 5),
        channels=(8, 16),
        reduce_channels=8,
        projection_channels=0,
        router="concatenate",
        local_classifier="pooled",
        schedule="one_cycle",
        capsule_optimizer=adam,
        head_optimizer=adam,
    )
    for block in model.network.prime_blocks if frozen else ():
        block.capsules.requires_grad_(False)
    trainer = make_trainer(folder, max_epochs=epochs)
    data = DigitsDataModule(batch_size=50)
    trainer.fit(model, data)
    return trainer.test(model, data, verbose=False)[0]["test/error"]


def test_local_learning_beats_a_frozen_random_stack(tmp_path):
    """The linear head learns in both; only the capsules' own learning differs."""
    assert digits_error(tmp_path, frozen=False) < 0.7 * digits_error(tmp_path, frozen=True)


@pytest.mark.parametrize("router", list(ROUTERS))
def test_every_router_trains_tests_and_is_drawn(router, tmp_path):
    options = {"warm_up": 2} if router == "commit" else None
    model = make_model(router=router, router_options=options, depth=2)
    monitor = RoutingMonitor(folder=tmp_path)
    trainer = make_trainer(tmp_path, [monitor, FeatureMaps(folder=tmp_path)], max_epochs=3)
    trainer.fit(model, TinyData(batch_size=20))
    assert 0 <= trainer.test(model, TinyData(batch_size=20), verbose=False)[0]["test/error"] <= 100
    assert (tmp_path / "figures" / "routing.png").stat().st_size > 0
    assert (tmp_path / "figures" / "feature_maps.png").stat().st_size > 0
    for number, means in monitor.history:
        kind = "share" if model.network.prime_blocks[0].router.routes_batches else "least_loss"
        shares = [value for name, value in means.items() if name.startswith(f"{kind}/block0.")]
        assert sum(shares) == pytest.approx(1), number
    last = monitor.history[-1][1]
    assert sum(name.startswith("loss/block0") for name in last) == (1 if router == "commit" else 3)
    assert cost_table(model).row_count > 4


def test_twin_is_drawn_without_capsules(tmp_path):
    model = make_model(router="mean", local=False)
    trainer = make_trainer(tmp_path, [RoutingMonitor(folder=tmp_path), FeatureMaps(folder=tmp_path)])
    with pytest.warns(UserWarning, match="FeatureMaps has nothing to show"):
        trainer.fit(model, TinyData(batch_size=20))
    assert not (tmp_path / "figures" / "feature_maps.png").exists()
    assert cost_table(model).row_count > 1


@pytest.mark.parametrize("router", ["concatenate", "gate"])
def test_feature_maps_mark_what_goes_on(router):
    model, images = make_model(router=router).eval(), torch.randn(30, 2, 8, 8)
    view = view_capsules(model, images, torch.zeros(30, dtype=torch.int64))
    if router == "gate":
        choice = model.network.prime_blocks[0].router(images).argmax(1)
        assert len(set(choice.tolist())) > 1
        assert torch.equal(view.route[0], choice)
    else:
        assert set(view.route[0].tolist()) == {-1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "majority"),
        (dict(inference_routing="min_entropy"), "min_entropy"),
        (dict(inference_routing=1), "1"),
        (dict(router="commit"), "commit"),
        (dict(router="settle", inference_routing="best_validation"), "best_validation"),
        (dict(router="mean", local=False), "mean, end to end"),
        (dict(router="random"), "majority"),
    ],
)
def test_a_summary_says_what_inference_goes_by(options, words):
    assert make_model(**options).network.routing_mode == words


def test_cost_of_each_router_by_hand():
    """Multiply-adds of the capsules' features: one of them, or all; heads and projections are the same."""

    def cost(router, route=None):
        model = make_model(router=router, channels=4, projection_channels=0, head_channels=5)
        return count_inference(model.network, route)

    image, reduced, channels = 64, 2, 4
    each = [image * (2 * reduced + reduced * channels * k * k) for k in (3, 5, 7)]
    head = 16 * channels * 5 * 9 + 5 * 4 * 3  # at 4x4 pixels, then dense from 2x2
    assert [cost("least_loss", (i,)) for i in range(3)] == [value + head for value in each]
    assert cost("mean") == sum(each) + head
    assert cost("concatenate") == sum(each) + 16 * 3 * channels * 5 * 9 + 5 * 4 * 3
    assert cost("commit", (1,)) == each[1] + head
    # pooled to 4x4, 32 hidden units, 3 capsules; of the images a third each
    assert cost("gate") == sum(each) // 3 + head + 2 * 16 * 32 + 32 * 3


def test_pruning_saves_what_the_losers_cost():
    model = make_model(router="commit", depth=2)
    before = count_cost(model.network)
    for block in model.network.prime_blocks:
        block.router.commit(0)
    model.network.prune()
    after = count_cost(model.network)
    assert after.multiply_adds_training < before.multiply_adds_training
    assert after.parameters < before.parameters
    assert after.multiply_adds_inference == before.multiply_adds_inference


def test_widths_and_pools_by_block():
    model = make_model(depth=3, channels=(4, 6, 8), projection_channels=(2, 0, 3), pool_every=(1,))
    assert [block.out_shape for block in model.network.prime_blocks] == [(6, 8, 8), (6, 4, 4), (11, 4, 4)]
    with pytest.raises(
        ValueError, match=r"channels=\(4,\) has 1 numbers for depth=2; give one per block, or one for all"
    ):
        make_model(depth=2, channels=(4,))
    with pytest.raises(ValueError, match="channels=-4 has -4, which is too few channels"):
        make_model(channels=-4)
    for place in (3, -1):
        with pytest.raises(ValueError, match=f"names block{place}, and there are 3; count from 0"):
            make_model(depth=3, pool_every=(place,))


def test_without_a_reduction_the_1x1_is_left_out():
    features = make_model(reduce_channels=0).network.prime_blocks[0].capsule(0).features
    assert sum(p.numel() for p in features.parameters()) == 2 * 4 * 9 + 2 * 4


def test_layers_that_follow_are_those_of_the_network():
    model = make_model(
        depth=3,
        channels=(4, 6, 8),
        head_channels=5,
        pool_every=(1,),
        local_classifier="layers",
        local_classifier_options={"depth": 3},
    )
    for block, widths in zip(model.network.prime_blocks, [(6, 8, 5), (8, 5), (5,)], strict=True):
        classifier = block.capsule(0).classifier
        assert isinstance(classifier, FollowingLayers)
        assert tuple(layer.out_channels for layer in classifier if hasattr(layer, "out_channels")) == widths
    assert [type(layer).__name__ for layer in model.network.prime_blocks[0].capsule(0).classifier][:4] == [
        "Conv2d",
        "BatchNorm2d",
        "LeakyReLU",
        "MaxPool2d",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(local_classifier="pooled", local_classifier_options={"width": 3}),
            "local_classifier_options has 'width', wh",
        ),
        (dict(local_loss="hinge"), "hinge"),
        (dict(local_loss="predsim", local_loss_options={"weight": 2}), "weight=2"),
        (
            dict(schedule="cosine", capsule_scheduler=lambda o: None),
            r"schedule='cosine' is for all optimizers, but a scheduler of single ones \(capsule_scheduler, ",
        ),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_model(**options)


def test_schedule_counts_the_steps_of_the_fit(tmp_path):
    """75 images in batches of 20 are four batches, two windows an epoch; after the last step cosine is at zero."""
    model = make_model(schedule="cosine", accumulate_grad_batches=2)
    trainer = make_trainer(tmp_path, max_epochs=3)
    trainer.fit(model, TinyData(batch_size=20))
    assert trainer.lr_scheduler_configs[0].scheduler.T_max == trainer.global_step == 6
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_schedule_counts_windows_of_a_fit_of_so_many_steps(tmp_path):
    trainer = make_trainer(tmp_path, max_epochs=-1, max_steps=5)
    trainer.fit(make_model(schedule="cosine", accumulate_grad_batches=2), TinyData(batch_size=20))
    assert trainer.lr_scheduler_configs[0].scheduler.T_max == trainer.global_step == 5


def test_schedule_without_an_end_is_refused(tmp_path):
    trainer = make_trainer(tmp_path, max_epochs=-1)
    with pytest.raises(ValueError, match="schedule='cosine' needs to know its end, and this fit has none"):
        trainer.fit(make_model(schedule="cosine"), TinyData(batch_size=20))


def test_schedule_of_a_resumed_run_must_have_the_same_length(tmp_path):
    trainer = make_trainer(tmp_path, max_epochs=2)
    trainer.fit(make_model(schedule="one_cycle"), TinyData(batch_size=20))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    longer = make_trainer(tmp_path, max_epochs=4)
    with pytest.raises(ValueError, match="laid out over 8 steps, and this fit has 16; resume with the same max_epochs"):
        longer.fit(make_model(schedule="one_cycle"), TinyData(batch_size=20), ckpt_path=tmp_path / "a.ckpt")


def test_deep_configurations_build_what_they_promise(request):
    """At most 0.41 M parameters, those that only teach included; the twin has the same network."""
    folder = request.config.rootpath / "configs" / "deep"
    for path in folder.glob("*.yaml"):
        options = yaml.safe_load(path.read_text())["model"]["init_args"]
        options = {key: value for key, value in options.items() if not key.endswith("_optimizer")}
        shape = (
            dict(in_channels=1, image_size=(28, 28))
            if "mnist" in path.name
            else dict(in_channels=3, image_size=(32, 32))
        )
        with torch.device("meta" if "vgg" in path.name else "cpu"):
            model = PrimeNet(**shape, **options)
        assert "vgg" in path.name or sum(p.numel() for p in model.network.parameters()) <= 410_000, path
