"""What stands in the tables, told from the results by the statistics module."""

import math
import statistics

import made_up as fiction
import pytest
from made_up import COST, made_up, parts

from primenet_lightning.reproduction.report._for_programs import as_data
from primenet_lightning.reproduction.report._remarks import leaked_labels
from primenet_lightning.reproduction.report._tables import tables


def cells(results, key):
    """Rows by their first cell, by head."""
    found = {table.key: table for table in tables(results)}[key]
    return {row[0]: dict(zip(found.heads, row, strict=True)) for row in found.rows}


def note_of(results, key):
    return {table.key: table for table in tables(results)}[key].note


def mean_and_spread(values):
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f} ({len(values)})"


QUOTED = "the paper's figure (%)"


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
    claimed = {name: row[QUOTED] for name, row in rows.items() if row[QUOTED]}
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
    for dataset, count in (("mnist", 1), ("cifar10", 4), ("svhn", 1), ("digits", 0)):
        (table,) = (table for table in tables(made_up(dataset)) if table.key == "table2")
        quoted = [row for row in table.rows if "quoted" in row[0]]
        assert [row[1] for row in quoted] == ["not run"] * count
    # of the fifth of CIFAR-10 the figure stands beside what was measured here
    assert cells(made_up("cifar10"), "table2")["ResNet-20, soft filter pruning (SFP)"][QUOTED] == "7.74, 6.32"


def test_splits_of_the_paper_and_of_the_run():
    few = dict(images=2_000, all_images=False, validation_images=300)
    rows = cells(made_up(change={"resnet50": few}), "table1")
    paper, most, resnet = ([*row.values()][1:] for row in rows.values())
    assert paper == ["28x28x1", "10", "60,000", "not told", "10,000"]
    assert most == ["28x28x1", "10", "54,000", "6,000", "10,000"]
    assert resnet == ["28x28x1", "10", "2,000", "300", "10,000"]


def test_splits_need_no_arrays_and_say_what_was_not_recorded():
    shape = {part: dict(in_shape=[3, 8, 9], classes=7, test_images=359) for part in parts(1)}
    (row,) = cells(made_up("digits", change=shape), "table1").values()
    assert [*row.values()][1:] == ["8x9x3", "7", "54,000", "6,000", "359"]
    old = {part: dict(in_shape=[], classes=0, validation_images=0) for part in parts(1)}
    (row,) = cells(made_up("digits", change=old), "table1").values()
    assert [*row.values()][1:] == [*["not recorded"] * 2, "54,000", "not recorded", "10,000"]


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
    assert [row["needs test labels"] for row in rows.values()] == ["no"] * 9 + ["yes"] * 4
    by = "oracle per sample: least loss of the image"
    assert rows[f"{by}, handed on to the head"]["difference (points)"].startswith("+0.60")
    assert rows[f"{by}, its local classifier answers"]["difference (points)"].startswith("-0.40")
    note = {table.key: table for table in tables(made_up())}["inference"].note
    assert all(sentence in note for sentence in leaked_labels(made_up()))


def test_the_multi_exit_network_stands_for_the_threshold_of_its_error():
    results = made_up()
    assert cells(results, "table2")["multi-exit network, threshold 0.9"]["test error (%)"].startswith("0.92")
    cost = cells(results, "table3")["multi-exit network, threshold 0.9"]
    assert cost["multiply-adds, inference (M)"] == "1.9"  # 1 + 0.9, and not COST's
    assert "mean over the test images at threshold 0.9" in note_of(results, "table3")
    without = made_up(change={"multi_exit": {"extra": {}}})
    assert cells(without, "table3")["multi-exit network"]["multiply-adds, inference (M)"] == "2.6"
    assert "of all its exits" in note_of(without, "table3")


def test_notes_say_what_the_numbers_are_of():
    sfp = "constant learning rate and 30 epochs, where its paper has 200"
    assert sfp in note_of(made_up(), "table2")
    assert sfp not in note_of(made_up(without=("sfp",)), "table2")
    assert "of PrimeNet's features and the layer on them together" in note_of(made_up(), "table3")
    assert "Phase 2's parameters" not in note_of(made_up(without=("probe", "probe_routed")), "table3")
    assert "learning rate 2e-4" in note_of(made_up(), "probe")
    assert "at least as sure as the threshold" in note_of(made_up(), "exits")


def test_scikit_learns_error_stands_beside_phase_2s():
    (table,) = (table for table in tables(made_up()) if table.key == "probe")
    place = table.heads.index("test error (%)")
    assert table.heads[place : place + 3] == ("test error (%)", "scikit-learn's error (%)", "epochs until converged")


def test_the_authors_widths_stand_in_table_3():
    (table,) = (table for table in tables(made_up()) if table.key == "table3")
    (row,) = (row for row in table.rows if "authors' widths" in row[0])
    assert row[1:5] == ("0.409", "0.41", "2.7", "2.7")


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


def test_tables_of_the_subset_of_svhn_have_no_errors():
    found = {table.key: table for table in tables(made_up("svhn-subset"))}
    assert not {"table2", "ablations", "inference", "exits"} & found.keys()
    heads = " ".join(head for table in found.values() for head in table.heads)
    assert "error" not in heads


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
    assert (rows["device"]["this run"], rows["versions"]["this run"]) == ("CPU, 2 threads", "torch 9.9")
    assert rows["trained by Adam 0.001, batch 32"]["this run"].startswith("PrimeNet, phase 2")


def conditions(results, name):
    (table,) = (table for table in tables(results) if table.key == "settings")
    return [row[1] for row in table.rows if row[0] == name]


def test_devices_and_versions_are_told_by_part_where_they_differ():
    results = made_up(without=[*{*parts(1)} - {"prime", "probe", "sfp"}])
    object.__setattr__(results.of("prime")[1], "device", "H100")
    for result in results.of("probe"):
        object.__setattr__(result, "device", "H100")
    assert conditions(results, "device") == [
        "CPU, 2 threads: PrimeNet, phase 1 (seeds 0 and 2); ResNet-20, soft filter pruning (SFP)",
        "H100: PrimeNet, phase 1 (seed 1); PrimeNet, phase 2: linear probe",
    ]
    assert conditions(results, "versions") == ["torch 9.9"]


def test_results_that_recorded_no_device_are_shown():
    old = {part: dict(device="", versions={}) for part in parts(1)}
    assert conditions(made_up(change=old), "device") == ["not recorded"]
    assert conditions(made_up(without=parts(1)), "device") == []


# -- the systems beside PrimeNet ---------------------------------------------------------------------------------------


def with_systems(dataset, *names, seeds=2):
    """Results with systems, each with a curve."""
    curves = {"rnp": (-0.1, 0.0), "dt_ram": (0.2, 0.5), "msdnet": (0.2, 0.35), "imta": (0.2, 0.35)}
    results = made_up(dataset, seeds=seeds)
    for name in names:
        points = [dict(setting=s, error=20.0 - s, multiply_adds=1e6 * (2 + s)) for s in curves.get(name, ())]
        results._results[name] = [fiction.result(name, seed, 5.0, 50, curve=points) for seed in range(seeds)]
    return results


def test_errors_of_systems_stand_beside_those_that_the_paper_quotes():
    rows = cells(with_systems("cifar10", "condensenet", "msdnet", "imta", "one"), "table2")
    claimed = {name: row[QUOTED] for name, row in rows.items() if row[QUOTED]}
    assert claimed == {
        "PrimeNet, phase 2: linear probe": "6.21",
        "CondenseNet-86": "3.46, 3.76",
        "IMTA, on that MSDNet": "5.9",
        "ONE, on ResNet-32": "3.13, 5.99 (as ITADN)",
        "RNP, quoted, network pruning": "15.05",
        "ResNet-20, soft filter pruning (SFP)": "7.74, 6.32",
    }
    assert rows["CondenseNet-86"]["test error (%)"] == mean_and_spread([5.0, 5.02])
    assert rows["the same, images leaving early at 35 % of its cost"]["test error (%)"] == "19.65 ± 0.00 (2)"
    assert cells(with_systems("svhn", "one"), "table2")["ONE, on ResNet-32"][QUOTED] == "1.63"


def test_costs_of_systems_are_what_images_really_took():
    rows = cells(with_systems("mnist", "rnp", "dt_ram"), "table3")
    assert rows["RNP, ours"]["multiply-adds, inference (M)"] == "2"
    assert rows["DT-RAM"]["multiply-adds, inference (M)"] == "2.5"
    (table,) = (table for table in tables(with_systems("cifar10", "condensenet", "msdnet")) if table.key == "table3")
    by_name = {row[0]: row for row in table.rows}
    assert by_name["CondenseNet-86"][1:5] == ("0.141", "0.52", "2.6", "65")
    assert by_name["the same, images leaving early at 35 % of its cost"][3] == "2.35"
    assert "CondenseNet-86, quoted" not in by_name
    assert "CondenseNet-light, quoted" in by_name
    (curves,) = (table for table in tables(with_systems("mnist", "rnp", "dt_ram")) if table.key == "curves")
    assert [row[:3] for row in curves.rows[1:3]] == [("RNP, ours", "balance", "0"), ("DT-RAM", "threshold", "0.2")]


def test_notes_say_what_quoted_figures_belong_to():
    two_pairs = '3.13 and 5.99 %, quoted for "ITADN", are ONE\'s'
    assert two_pairs in note_of(made_up("cifar10"), "table2")
    assert two_pairs not in note_of(made_up("mnist"), "table2")
    assert "networks of 3 to 4 million parameters" in note_of(made_up("cifar10"), "table2")
    assert "ONE's FLOPs are in another unit" in note_of(made_up("svhn"), "table3")
    assert "RNP is ours" in note_of(with_systems("mnist", "rnp"), "table2")


def test_errors_along_a_curve_are_left_out_of_a_subset():
    results = with_systems("svhn-subset", "msdnet")
    found = {table.key: table for table in tables(results)}
    assert not {"curves", "table2"} & found.keys()
    assert not any("error" in str(value) for value in as_data(results)["parts"]["msdnet"])
