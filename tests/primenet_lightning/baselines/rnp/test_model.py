"""RNP refuses what cannot be."""

import pytest

from primenet_lightning.baselines import RNPNet


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(penalty=0.1), "penalty=0.1 must be below 0"),
        (dict(loss_weight=0), "loss_weight=0 must be above 0"),
        (dict(discount=1.5), "discount=1.5 must be above 0 and at most 1"),
        (dict(balance=float("nan")), "balance=nan must be a number"),
        (dict(pretraining=0.6, random_pruning=0.4), "pretraining=0.6 and random_pruning=0.4 leave nothing"),
        (dict(pretraining=-0.1), "pretraining=-0.1 must be within 0 and 1"),
        (dict(agent_share=1), "agent_share=1 must be between 0 and 1"),
        (dict(rounds=0), "rounds=0 must be at least 1"),
        (dict(rounds=2.5), "rounds=2.5 cannot be taken; give a whole number"),
        (dict(widths=[8.0, 8]), r"widths=\[8\.0, 8\] cannot be taken; give a list of \(a whole number\)"),
        (dict(widths=[6, 6]), "does not divide into groups=4"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        RNPNet(**options)
