import pytest

from primenet_lightning import PrimeNet
from primenet_lightning.datamodules import DigitsDataModule
from primenet_lightning.reproduction._plan import QUICK, Training, all_parts, extent, plan


def test_every_network_of_the_plan_can_be_built():
    data = DigitsDataModule()
    built = {part.name: part.build(data, "compact") for part in all_parts() if isinstance(part, Training)}
    prime = {name: model for name, model in built.items() if isinstance(model, PrimeNet)}
    assert [name for name, model in prime.items() if not model.local] == ["end_to_end_mean", "end_to_end_concatenate"]
    assert {len(model.kernel_sizes) for name, model in prime.items() if name != "four_scales"} == {3}
    assert prime["four_scales"].kernel_sizes == (1, 3, 5, 7)
    assert prime["no_projection"].network.prime_blocks[0].projection is None
    assert prime["prime"].architecture.router == "least_loss"


def test_scales_are_the_papers_schedule_and_a_quarter_of_an_hour():
    full = extent("mnist", "full")
    assert (full.epochs, full.probe_epochs, full.heavy_epochs, full.images, full.parts) == (100, 50, 50, None, None)
    quick = extent("cifar10", "quick")
    assert (quick.images, quick.heavy_images) == (10_000, 2_000)
    # what the issue wants in every quick run
    assert {"prime", "probe", "one_scale_3", "one_scale_5", "one_scale_7", "end_to_end_mean", "resnet50"} <= {*QUICK}
    assert [part.name for part in plan(QUICK)] == [part.name for part in all_parts() if part.name in QUICK]
    with pytest.raises(ValueError, match="scale='huge' is unknown"):
        extent("mnist", "huge")


def test_who_probes_needs_the_network_that_is_probed():
    assert [part.name for part in plan(["probe_routed"])] == ["prime", "probe_routed"]
    assert [part.name for part in plan(["one_scale_3"])] == ["one_scale_3"]
    with pytest.raises(ValueError, match=r"parts='primes' is unknown; use some of prime, probe, "):
        plan(["primes"])
