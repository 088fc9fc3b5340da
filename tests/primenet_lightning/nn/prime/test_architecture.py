from dataclasses import replace
from typing import get_args

import pytest

from primenet_lightning import Architecture, architecture
from primenet_lightning.nn.prime.architecture import LEAST_WIDTHS, Size, WidthField

SMALL = Architecture(2, 4, 3, 5, "pooled", stride=1)


def test_a_width_is_that_of_its_block():
    widths = replace(SMALL, channels=(4, 6, 8))
    widths.check_depth(3)
    assert [widths.of_block("channels", index) for index in range(3)] == [4, 6, 8]
    assert [widths.of_block("reduce_channels", index) for index in range(3)] == [2, 2, 2]


def test_fields_that_differ_from_block_to_block_have_a_smallest_width():
    assert set(LEAST_WIDTHS) == set(get_args(WidthField))
    replace(SMALL, reduce_channels=0, projection_channels=(0, 3), channels=1).check_depth(2)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        (dict(channels=(4, 6)), r"channels=\(4, 6\) has 2 numbers for depth=3; give one per block, or one for all"),
        (dict(projection_channels=()), r"projection_channels=\(\) has 0 numbers for depth=3"),
        (dict(channels=(4, 0, 8)), r"^channels=\(4, 0, 8\) has 0, which is too few channels"),
        (dict(reduce_channels=-1), r"reduce_channels=-1 has -1, which is too few channels"),
    ],
)
def test_widths_that_do_not_fit_are_refused(widths, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **widths).check_depth(3)


@pytest.mark.parametrize(
    ("side", "channels", "head_channels", "stride"), [(8, 32, 96, 1), (28, 16, 96, 2), (32, 16, 56, 2)]
)
def test_the_compact_size_goes_by_the_image(side, channels, head_channels, stride):
    compact = architecture("compact", (side // 2, side))
    assert (compact.channels, compact.head_channels, compact.stride) == (channels, head_channels, stride)


def test_sizes_by_name():
    assert {architecture(size, (28, 28)).local_classifier for size in get_args(Size)} == {"flatten"}
    with pytest.raises(ValueError, match="size='huge' is unknown; use 'paper' or 'compact'"):
        architecture("huge", (28, 28))
