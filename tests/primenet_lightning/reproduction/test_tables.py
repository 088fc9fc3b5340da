"""What stands in the tables, told from the results by the statistics module."""

import math
import statistics

import pytest
from made_up import COST, made_up, parts

from primenet_lightning.reproduction.tables import findings, remarks, tables


def cells(results, key):
    """Rows by their first cell, by head."""
    found = {table.key: table for table in tables(results)}[key]
    return {row[0]: dict(zip(found.heads, row, strict=True)) for row in found.rows}


def text(results):
    return "\n".join([*remarks(results), *findings(results), *(str(table) for table in tables(results))])


def mean_and_spread(values):
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f} ({len(values)})"


def test_errors_are_means_and_sample_deviations_over_the_seeds():
    spread = [0.5, 0.9, 1.0]
    found = parts()
    results = made_up()
    for result, error in zip(results.of("resnet20"), spread, strict=True):
        object.__setattr__(result, "test_error", error)
    rows = cells(results, "table2")
    assert rows["ResNet-20"]["test error (%)"] == mean_and_spread(spread)
    prime = [result.test_error for result in found["prime"]]
    assert rows["PrimeNet, phase 1"]["test error (%)"] == mean_and_spread(prime)
    votes = [result.extra["routings"]["vote"] for result in found["prime"]]
    assert rows["vote of phase 1's capsules"]["test error (%)"] == mean_and_spread(votes)


def test_claims_stand_beside_what_was_measured():
    rows = cells(made_up(), "table2")
    claimed = {name: row["the paper's figure (%)"] for name, row in rows.items() if row["the paper's figure (%)"]}
    assert claimed == {
        "PrimeNet, phase 2: linear probe": "0.58",
        "DT-RAM, quoted, conditional computation": "1.46, 1.12",
    }
    assert rows["PrimeNet, phase 2: linear probe"]["epochs"] == "30 + 15"
    costs = cells(made_up("cifar10"), "table3")
    assert "CondenseNet-86, quoted" in costs
    prime = {table.key: table for table in tables(made_up())}["table3"].rows[0]
    assert prime[1:5] == ("0.141", "0.41", "2.6", "2.7")


def test_every_quoted_baseline_is_marked():
    for dataset, count in (("mnist", 1), ("cifar10", 5), ("svhn", 1), ("digits", 0)):
        (table,) = (table for table in tables(made_up(dataset)) if table.key == "table2")
        quoted = [row for row in table.rows if "quoted" in row[0]]
        assert [row[1] for row in quoted] == ["not run"] * count


def test_splits_of_the_paper_and_of_the_run():
    rows = cells(made_up(change={"resnet50": {"images": 2_000, "all_images": False}}), "table1")
    paper, most, resnet = rows.values()
    assert [paper["training images"], paper["test images"]] == ["60,000", "10,000"]
    assert [most["training images"], most["held out for validation"]] == ["54,000", "6,000"]
    assert [resnet["training images"], resnet["held out for validation"]] == ["2,000", "not recorded"]


def test_parts_that_were_not_run_are_named():
    rows = cells(made_up(without=("sfp", "local_mean")), "table2")
    assert rows["ResNet-20, soft filter pruning (SFP)"]["test error (%)"] == "not run"
    found = {table.key: table for table in tables(made_up(without=("sfp", "local_mean")))}
    assert "Not run: local, maps averaged." in found["ablations"].note


def test_few_images_are_told_in_the_row():
    rows = cells(made_up(change={"resnet50": {"images": 2_000, "all_images": False}}), "table2")
    assert rows["ResNet-50, random weights"]["training images"] == "2,000, a subset"


def test_differences_are_taken_seed_by_seed():
    results = made_up()
    for result, error in zip(results.of("local_mean"), (1.0, 0.9, 1.3), strict=True):
        object.__setattr__(result, "test_error", error)
    differences = [
        ours.test_error - theirs.test_error
        for ours, theirs in zip(results.of("local_mean"), results.of("prime"), strict=True)
    ]
    row = cells(results, "ablations")["local, maps averaged"]
    assert row["difference (points)"] == f"+{mean_and_spread(differences)}"


def test_routings_that_need_labels_come_last_and_say_so():
    rows = cells(made_up(), "inference")
    assert [row["needs test labels"] for row in rows.values()] == ["no"] * 9 + ["yes"] * 2
    assert rows["oracle per sample: least loss of the image"]["difference (points)"].startswith("-0.40")
    (sentence,) = findings(made_up(seeds=1))
    assert all(number in sentence for number in ("0.80 %", "0.70 %", "0.40 %", "no test results"))
    assert findings(made_up(without=("prime",))) == []


def test_exits_by_threshold():
    rows = cells(made_up(), "exits")
    assert {name: row["multiply-adds, inference (M)"] for name, row in rows.items()} == {
        "0.5": "1.5 ± 0 (3)",
        "0.9": "1.9 ± 0 (3)",
        "1": "2 ± 0 (3)",
    }


def test_large_numbers_are_written_out():
    cost = dict(activation_bytes=2_345 * 2**20, multiply_adds_inference=1.3e9)
    row = cells(made_up(change={"resnet20": {"cost": COST | cost}}), "table3")["ResNet-20"]
    assert (row["multiply-adds, inference (M)"], row["activations (MiB)"]) == ("1,300", "2,345")


def test_what_a_quick_run_cut_stands_first():
    cut = {name: dict(images=10_000, all_images=False) for name in parts(1)}
    cut["resnet50"]["images"] = 2_000
    first = remarks(made_up(change=cut, scale="quick"))[0]
    assert "quick scale" in first
    assert "trained on 10,000 training images, not all there are; 2,000 for ResNet-50." in first
    few = {"resnet20": dict(images=2_000, all_images=False)}
    assert remarks(made_up(change=few))[0] == "Trained on all 54,000 training images; 2,000 for ResNet-20."
    assert "Epochs of phases 1 and 2: 30 + 15; the paper has 100 + 50." in remarks(made_up())


def test_the_subset_of_svhn_comes_first_and_has_no_errors():
    assert "subset of SVHN" in remarks(made_up("svhn-subset"))[0]
    assert "no results on digits" in remarks(made_up("digits"))[0]
    found = {table.key: table for table in tables(made_up("svhn-subset"))}
    assert not {"table2", "ablations", "inference", "exits"} & found.keys()
    heads = " ".join(head for table in found.values() for head in table.heads)
    assert "error" not in heads
    assert findings(made_up("svhn-subset")) == []


def test_tables_are_rectangular_whatever_is_missing():
    for name in ("", *parts(1)):
        for dataset in ("mnist", "cifar10", "svhn", "svhn-subset", "digits"):
            results = made_up(
                dataset, without=(name,), seeds=1, change={"sfp": {"cost": {}, "extra": {}}} if not name else None
            )
            for table in tables(results):
                assert {len(row) for row in table.rows} == {len(table.heads)}
    assert [table.key for table in tables(made_up(without=parts(1)))] == ["verdicts", "table1", "table2", "settings"]


def test_a_diverged_seed_is_told():
    results = made_up(change={"resnet20": {"test_error": math.nan}})
    assert cells(results, "table2")["ResNet-20"]["test error (%)"] == "not finite (3)"


@pytest.mark.parametrize("seeds", [1, 3])
def test_versions_and_recipes_are_in_the_settings(seeds):
    rows = cells(made_up(seeds=seeds), "settings")
    assert rows["seeds"]["this run"] == str(seeds)
    assert rows["versions"]["this run"] == "torch 9.9"
    assert rows["trained by Adam 0.001, batch 32"]["this run"].startswith("PrimeNet, phase 2")
