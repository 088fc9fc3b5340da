"""The sentences of a report: what was cut, what the data are, and which way leaked labels went."""

from made_up import ROUTINGS, extras, made_up, parts

from primenet_lightning.reproduction.report._remarks import findings, remarks


def test_what_a_quick_run_cut_stands_first():
    cut = {name: dict(images=10_000, all_images=False) for name in parts(1)}
    cut["resnet50"]["images"] = 2_000
    first = remarks(made_up(change=cut, scale="quick"))[0]
    assert "quick scale" in first
    assert "trained on 10,000 training images, not all there are; 2,000 for ResNet-50." in first
    few = {"resnet20": dict(images=2_000, all_images=False)}
    assert remarks(made_up(change=few))[0] == "Trained on all 54,000 training images; 2,000 for ResNet-20."
    assert "Epochs of phases 1 and 2: 30 + 15; the paper has 100 + 50." in remarks(made_up())


def test_the_subset_of_svhn_comes_first_and_has_no_findings():
    assert "subset of SVHN" in remarks(made_up("svhn-subset"))[0]
    assert "no results on digits" in remarks(made_up("digits"))[0]
    assert findings(made_up("svhn-subset")) == []


def test_findings_say_which_way_leaked_labels_went():
    (sentence,) = findings(made_up(seeds=1))
    for said in (
        "phase 1's test error is 0.80 % (1) routed without labels",
        "Handed on to the head, which knows best the maps that training routed most, leaked labels raise the error to "
        "0.90 % (1) with one capsule a batch and 1.40 % (1) with one an image.",
        "own local classifier, which shows what the label is worth, leaked labels lower the error to "
        "0.70 % (1) with one capsule a batch and 0.40 % (1) with one an image.",
        "no test results",
    ):
        assert said in sentence
    assert findings(made_up(without=("prime",))) == []


def test_both_ways_are_said_where_they_differ():
    routings = ROUTINGS | {"oracle per batch": 0.8, "oracle per sample": 0.6}
    (sentence,) = findings(made_up(seeds=1, change={"prime": {"extra": extras(0) | dict(routings=routings)}}))
    assert "leave the error at 0.80 % (1) with one capsule a batch and lower the error to 0.60 % (1)" in sentence


def test_leaked_labels_of_results_without_own_verdicts():
    routings = {name: error for name, error in ROUTINGS.items() if "own verdict" not in name}
    (sentence,) = findings(made_up(seeds=1, change={"prime": {"extra": extras(0) | dict(routings=routings)}}))
    assert "Handed on to the head" in sentence
    assert "local classifier" not in sentence
