"""The systems that the paper compares with, as parts of a reproduction."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from primenet_lightning.baselines import IMTA, CondenseNet, MSDNet
from primenet_lightning.reproduction._carrying_out import carry_out
from primenet_lightning.reproduction._plan import Training, _network, plan
from primenet_lightning.reproduction._results import PARTS, Settings
from primenet_lightning.reproduction._workplace import Folder, Workplace

CONFIGS = Path(__file__).parents[3] / "configs" / "systems"

EXITS = {"exits": 2, "scales": 2, "channels": 4, "growth": 2, "exit_channels": 4}


class Images:
    """Says what a data module says of its images."""

    in_channels, image_size, num_classes = 3, (32, 32), 10


class Digits(Images):
    in_channels, image_size = 1, (28, 28)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A reproduction on a few digits, in batches of 50, with epochs enough for all phases."""
    settings = Settings("digits", "full", "compact", 1, 1, 1, 50, 32, "32-true", 100, 100, 1)
    place = Workplace(Folder(tmp_path_factory.mktemp("systems")), settings, accelerator="cpu")
    place.folder.begin(settings)
    return place


def tiny(name, kind, begins_with=None, **options):
    build = _network(kind, sized=False, **options)
    return Training(name, build, "by itself", heavy=True, begins_with=begins_with)


@pytest.mark.parametrize(
    ("name", "file", "images"),
    [
        *((name, name, Images) for name in ("condensenet", "msdnet", "imta", "one")),
        *((name, name, Digits) for name in ("rnp", "dt_ram")),
        ("rnp", "rnp_cifar10", Images),
    ],
)
def test_each_system_is_built_as_its_authors_do(name, file, images):
    """As in ``configs/systems``, where this is not the optimizer."""
    (part,) = (part for part in plan([name]) if part.name == name)
    model = part.build(images(), "compact")
    options = yaml.safe_load((CONFIGS / f"{file}.yaml").read_text(encoding="utf-8"))["model"]
    for option, value in options["init_args"].items():
        if option not in ("optimizer", "head_optimizer", "scheduler", "schedule"):
            there = model.hparams[option]
            assert there == value or tuple(there) == tuple(value), option
    assert type(model).__name__.lower().startswith(name.replace("_", "")[:5])
    assert part.heavy


def test_imta_begins_with_a_network_of_gradient_equilibrium():
    (msdnet, imta) = (part.build(Images(), "compact") for part in plan(["imta"]))
    assert msdnet.hparams["equilibrium"] == "coarsest"
    assert msdnet.plan == imta.plan


def test_parts_are_for_the_data_sets_where_they_make_sense():
    assert {part.name for part in plan(None, "mnist")} == {*PARTS} - {"condensenet", "msdnet", "imta", "one"}
    assert {part.name for part in plan(None, "cifar10")} == {*PARTS} - {"dt_ram"}
    assert [part.name for part in plan(["imta"], "svhn")] == ["msdnet", "imta"]
    with pytest.raises(ValueError, match=r"parts='dt_ram' is for mnist or digits, and not for cifar10; leave it out"):
        plan(["prime", "dt_ram"], "cifar10")


def test_imta_begins_with_the_best_weights_of_the_part_before(place):
    first = tiny("msdnet", MSDNet, equilibrium="coarsest", **EXITS)
    second = tiny("imta", IMTA, begins_with="msdnet", **EXITS)
    with pytest.raises(FileNotFoundError, match=r"best.ckpt is missing, which part imta takes; delete .*msdnet"):
        carry_out(second, 0, place)
    carry_out(first, 0, place)
    best = place.folder.of("msdnet", 0) / "checkpoints" / "best.ckpt"
    assert [path.name for path in best.parent.iterdir()] == ["best.ckpt"]
    result = carry_out(second, 0, place)
    assert not (place.folder.of("imta", 0) / "checkpoints").exists()
    assert [point["setting"] for point in result.extra["curve"]] == [0.2, 0.35, 0.5, 0.75, 1.0]
    # who spends all goes to the last exit, whose error is the part's
    assert result.extra["curve"][-1]["error"] == pytest.approx(result.test_error, abs=1e-4)
    assert result.extra["curve"][-1]["multiply_adds"] == result.cost["multiply_adds_inference"]


@pytest.mark.parametrize(("name", "own"), [("rnp", 0.0), ("dt_ram", 0.5)])
def test_networks_of_dynamic_cost_are_tested_at_their_own_setting(place, name, own):
    place = dataclasses.replace(place, settings=dataclasses.replace(place.settings, batch_size=10))
    (part,) = plan([name], "digits")
    result = carry_out(part, 0, place)
    points = {point["setting"]: point for point in result.extra["curve"]}
    assert points[own]["error"] == pytest.approx(result.test_error, abs=1e-4)
    assert len({*points}) > 4
    costs = [point["multiply_adds"] for point in result.extra["curve"]]
    assert costs == sorted(costs)
    assert result.validation_images > 0


class Flattered(CondenseNet):
    """Is told before its last stage that it makes no mistake."""

    def results_of(self, metrics, others=None):
        results = super().results_of(metrics, others)
        if not self.is_complete:
            results |= {"error": torch.tensor(0.0), "accuracy": torch.tensor(1.0)}
        return results


def test_condensenet_chooses_among_epochs_after_its_last_stage(place):
    place = dataclasses.replace(place, settings=dataclasses.replace(place.settings, heavy_epochs=3))
    result = carry_out(tiny("condensenet", Flattered, layers=[1], growth=[8]), 0, place)
    accuracies = result.curves["validation_accuracy"]
    assert accuracies[0] == 100  # of the first of three epochs, in which a third of the fit is done
    assert result.validation_error == pytest.approx(100 - max(accuracies[1:]), abs=1e-4)
    assert result.validation_error > 0
