"""The benchmark of the systems of table 2: its rows, its folders, its report."""

import argparse
import json
from pathlib import Path

import glimpses
import pytest
import system_points
import systems
import torch

from primenet_lightning.baselines import DTRAMNet, MSDNet, OneNet, OneScale, RNPNet
from primenet_lightning.baselines.dt_ram import ThresholdRow
from primenet_lightning.commands.short_names import SHORT_NAMES, SIZES
from primenet_lightning.datamodules import DigitsDataModule
from primenet_lightning.nn.systems.phases import Position

ROOT = Path(__file__).parents[2]
PRECISION = "bf16-mixed"


def options_for(out, seeds=(0, 1)):
    return argparse.Namespace(epochs=2, limit=100, seeds=list(seeds), out=out, root="", precision=PRECISION)


def finish(run, out, error, curve=(), fixed=()):
    """A folder as a finished run leaves it, measured."""
    folder = run.folder(out)
    folder.mkdir(parents=True)
    summary = dict(test_error=error, validation_error=error + 1, parameters=7, multiply_adds_inference=3_000_000)
    (folder / "summary.json").write_text(json.dumps(summary | {"seconds": 6.0}))
    points = [dict(name="half", error=2 * error, multiply_adds=1_500_000)]
    measured = {"curve": list(curve), "points": points, "fixed": list(fixed), "chosen": {"setting": 0.5}}
    (folder / "measured.json").write_text(json.dumps(measured))


def test_rows_name_models_and_data_that_there_are():
    for row in systems.ROWS:
        assert row.model in SHORT_NAMES["model"] or row.model in SIZES
        assert systems.DATA[row.data]["data"] in SHORT_NAMES["data"]
        assert all(option.startswith("model.") for option in row.options)
    names = [row.name for row in systems.ROWS]
    assert len({systems.Run.of(row, options_for(Path()), 0).folder(Path()) for row in systems.ROWS}) == len(names)
    for row in systems.ROWS:
        assert row.begins_with is None or names.index(row.begins_with) < names.index(row.name)


def test_all_of_a_data_set_see_the_same_images(tmp_path):
    for row in systems.ROWS:
        arguments = systems.Run(row, 2, 100, 5, PRECISION).arguments(tmp_path, "data")
        given = dict(zip(arguments[::2], arguments[1::2], strict=True))
        assert (given["--data.limit_train"], given["--seed_everything"]) == ("100", "5")
        assert given["--trainer.precision"] == PRECISION
        for name, value in systems.DATA[row.data].items():
            assert given[f"--{name}"] == value


def test_a_row_that_begins_with_another_trains_that_one_first(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(systems, "carry_out", lambda folder, arguments: begun.append((folder, arguments)))
    monkeypatch.setattr(systems, "measure", lambda folder, root: None)
    systems.Run(systems.BY_NAME["IMTA"], 2, 100, 1, PRECISION).carry_out(tmp_path, "data")
    (first, _), (second, arguments) = begun
    assert first.name == "MSDNet_equilibrium-100-2-1"
    assert second.name == "IMTA-100-2-1"
    assert arguments[arguments.index("--model.trained") + 1] == str(first)


def test_a_result_averages_its_seeds(tmp_path):
    for seed in (0, 1):
        points = [dict(setting=s, error=20 + s + seed, multiply_adds=1e6 * (s + seed)) for s in (1.0, 2.0)]
        rnp, dt_ram = [systems.Run(systems.BY_NAME[name], 2, 100, seed, PRECISION) for name in ("RNP", "DT-RAM")]
        finish(rnp, tmp_path, 30.0 + seed, points)
        points = [dict(setting=s, error=3 - s, multiply_adds=1e6 * s, steps=4 * s) for s in (0.5, 1.0)]
        finish(dt_ram, tmp_path, 2.5, points, [9.0, 5.0 + seed])
    result = systems.result_of(systems.BY_NAME["RNP"], options_for(tmp_path))
    assert (result.errors, result.seeds) == ([30.0, 31.0], [0, 1])
    assert result.curve[0] == {"setting": 1.0, "error": 21.5, "multiply_adds": 1.5e6}
    assert systems.result_of(systems.BY_NAME["ONE"], options_for(tmp_path)) is None
    other = systems.result_of(systems.BY_NAME["DT-RAM"], options_for(tmp_path))
    assert (other.fixed, other.chosen) == ([9.0, 5.5], [{"setting": 0.5}] * 2)
    assert result.points == [dict(name="half", error=61.0, multiply_adds=1_500_000)]
    assert "(half: 61.00 % at 1.50 M)" in str(result)


def test_classifiers_of_fixed_numbers_learn_what_they_see():
    """The network is left as it is, and fitting makes fewer errors than the classifier that nobody fitted."""
    data = DigitsDataModule(batch_size=100)
    data.setup("fit")
    torch.manual_seed(0)
    model = DTRAMNet(1, (8, 8), 10, steps=3, patch=4, first_location="centre", glimpse_width=16, width=64)
    model.network.position = Position(20, 20)
    before = {name: value.clone() for name, value in model.state_dict().items() if value is not None}
    unfitted = glimpses.errors_of_fixed_steps(model, data, steps=0)
    fitted = glimpses.errors_of_fixed_steps(model, data, steps=100)
    assert len(fitted) == 3
    assert max(fitted) < min(unfitted) - 10
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_parts_of_a_network_are_tested_alone():
    """Exits, branches and widths: their errors are those of a plain loop over the test images."""
    data = DigitsDataModule(batch_size=100)
    data.setup("fit")
    data.setup("test")
    torch.manual_seed(0)
    images, labels = data.test_dataset[torch.arange(len(data.test_dataset))]
    images = data.normalize(images)

    def error_of(logits):
        return 100 * (logits.argmax(1) != labels).double().mean().item()

    msdnet = MSDNet(1, (8, 8), 10, exits=2, scales=2, channels=4, growth=2, exit_channels=6).eval()
    one = OneNet(1, (8, 8), 10, depth=8).eval()
    rnp = RNPNet(1, (8, 8), 10, widths=(4, 8), pool_after=(1,)).eval()
    with torch.inference_mode():
        exits = msdnet.network.exits(images)
        branches, teacher = one.network.model(images)
        wide = rnp.network.backbone(images)
    first, last = system_points.points_of(msdnet, data)
    assert (first.error, last.error) == pytest.approx([error_of(logits) for logits in exits], abs=0.2)
    assert (first.multiply_adds, last.multiply_adds) == tuple(msdnet.exit_costs)
    *of_branches, of_teacher = system_points.points_of(one, data)
    assert [point.error for point in of_branches] == pytest.approx([error_of(each) for each in branches], abs=0.2)
    assert of_teacher.error == pytest.approx(error_of(teacher), abs=0.2)
    assert of_teacher.multiply_adds > of_branches[0].multiply_adds
    *narrow, all_of_it = system_points.points_of(rnp, data)
    assert all_of_it.error == pytest.approx(error_of(wide), abs=0.2)
    assert [point.name for point in narrow] == ["1 of 4 groups", "2 of 4 groups", "3 of 4 groups"]
    assert system_points.points_of(OneScale(1, (8, 8), 10), data) == []


def test_a_threshold_is_chosen_on_held_out_images_among_those_of_few_glimpses(monkeypatch):
    data = DigitsDataModule(batch_size=100)
    data.setup("fit")
    model = DTRAMNet(1, (8, 8), 10, steps=3, patch=4, glimpse_width=16, width=64)
    seen = []

    def curve(network, images, labels, thresholds):
        seen.append(len(images))
        rows = {0.2: (1.0, 9.0), 0.5: (3.5, 4.0), 0.9: (6.0, 1.0)}
        return [ThresholdRow(threshold, rows[threshold][1], 0.0, rows[threshold][0]) for threshold in thresholds]

    monkeypatch.setattr(system_points, "threshold_curve", curve)
    of_test = [dict(setting=setting, error=99.0) for setting in (0.2, 0.5, 0.9)]
    assert system_points.chosen_point(model, data, of_test) == of_test[1]
    assert system_points.chosen_point(model, data, of_test[2:]) is None
    assert seen == [len(data.validation_dataset)] * 2
    assert system_points.chosen_point(OneNet(1, (8, 8), 10, depth=8), data, of_test) is None
