"""The names that the folder of callbacks offers."""

import pytest

from primenet_lightning import callbacks


def test_all_names_are_there_and_come_when_they_are_used():
    assert set(callbacks.__all__) <= set(dir(callbacks))
    for name in callbacks.__all__:
        assert getattr(callbacks, name).__name__ == name
    with pytest.raises(AttributeError, match=r"module 'primenet_lightning\.callbacks' has no attribute 'Nothing'"):
        _ = callbacks.Nothing
