"""DT-RAM refuses what cannot be."""

import pytest

from primenet_lightning.baselines import DTRAMNet


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(threshold=1.2), "threshold=1.2 is no probability"),
        (dict(steps=1), "steps=1 must be at least 2"),
        (dict(deviation=0), "deviation=0 must be finite and above 0"),
        (dict(stop_share=1), "stop_share=1 must be at least 0 and below 1"),
        (dict(stop_gradient="exact"), "stop_gradient='exact' is unknown; use 'expected' or 'sampled'"),
        (dict(discount=0), "discount=0 must be above 0"),
        (dict(patch=29), "patch=29 is larger than the images, which are 28x28"),
        (dict(first_location="corner"), "first_location='corner' is unknown"),
        (dict(locator_width=0), "locator_width=0 must be at least 1"),
        (dict(steps=2.5), "steps=2.5 cannot be taken; give a whole number"),
        (dict(width=0), "width=0 must be at least 1"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        DTRAMNet(**options)
