"""The benchmark of the fast recipe: its variants, its folders, and its rows."""

import argparse
import json
from pathlib import Path

import fast
import pytest
import yaml

from primenet_lightning import CutNet

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "fast" / "cifar10.yaml"


def model_of(variant):
    """The network of a variant, eight channels wide."""
    options = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["model"]["init_args"]
    for name, value in fast.VARIANTS[variant].items():
        options[name.removeprefix("model.")] = yaml.safe_load(value)
    options["backbone_options"] = {"widths": [8, 8, 8]}
    del options["optimizer"]
    return CutNet("whitened", 3, (32, 32), 10, **options)


@pytest.mark.parametrize("variant", fast.VARIANTS)
def test_a_variant_is_what_its_name_says(variant):
    model = model_of(variant)
    parts = len(model.network.loss_names)
    assert parts == (1 if variant == fast.TWIN else int(variant[0]))
    local = variant not in (fast.TWIN, "3 parts, overlap")
    assert model.strictly_local == local
    if "early" in variant:
        assert model.network.stages[1].part.name == "groups.1"


def test_a_training_has_a_folder_by_all_that_decides_it(tmp_path):
    runs = [
        fast.Run(variant, config, epochs, limit, seed).folder(tmp_path)
        for variant in fast.VARIANTS
        for config in (CONFIG, CONFIG.with_name("mnist.yaml"))
        for epochs in (4, 8)
        for limit in (None, 10_000)
        for seed in (0, 1)
    ]
    assert len(set(runs)) == len(runs)


def finished(folder, plain, flips, **summary):
    """A folder as a finished run leaves it, with its verdicts."""
    folder.mkdir(parents=True)
    summary |= {"test_error_flips": 100 * flips.count("0") / len(flips)}
    summary |= {"parameters": 3, "multiply_adds_inference": 4, "multiply_adds_training": 5, "seconds": 6.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "verdicts.json").write_text(json.dumps({"plain": plain, "averaged": flips}))


def options_for(out, seeds):
    return argparse.Namespace(config=CONFIG, epochs=4, limit=None, seeds=seeds, out=out, root="")


def test_a_row_relates_the_errors_of_the_seeds_that_both_have(tmp_path):
    options = options_for(tmp_path, [0, 1])
    finished(fast.Run(fast.TWIN, CONFIG, 4, None, 0).folder(tmp_path), "1110", "1111", test_error=25.0)
    finished(fast.Run("3 parts", CONFIG, 4, None, 0).folder(tmp_path), "1100", "1110", test_error=50.0)
    finished(fast.Run("3 parts", CONFIG, 4, None, 1).folder(tmp_path), "0000", "0000", test_error=100.0)
    with pytest.raises(ValueError, match="twin makes no error"):  # of the averaged logits
        fast.row_of("3 parts", options)
    twin = fast.Run(fast.TWIN, CONFIG, 4, None, 0).folder(tmp_path) / "verdicts.json"
    twin.write_text(json.dumps({"plain": "1110", "averaged": "1101"}))
    row = fast.row_of("3 parts", options)
    assert row.seeds == [0, 1]
    assert row.errors == [50.0, 100.0]
    assert row.errors_flips == [25.0, 100.0]
    assert row.ratio["value"] == 2.0  # of seed 0
    assert row.ratio_flips["value"] == 1.0
    assert fast.row_of(fast.TWIN, options).ratio is None
    assert fast.row_of("3 parts, overlap", options) is None


def test_a_checkpoint_that_errs_otherwise_than_its_run_is_told(tmp_path):
    folder = fast.Run("3 parts", CONFIG, 4, None, 0).folder(tmp_path)
    finished(folder, "1100", "1110", test_error=25.0)
    with pytest.raises(ValueError, match=r"50\.00 % of errors, and the run had 25\.0"):
        fast.judge(folder, "")
