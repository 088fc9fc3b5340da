import dataclasses

import numpy as np
import pytest

from primenet_lightning.reproduction._results import Result, Settings
from primenet_lightning.reproduction._workplace import Folder


@pytest.fixture
def settings():
    return Settings("digits", "quick", "compact", 2, 3, 2, 200, 32, "32-true")


def result(name="prime", seed=0, **fields):
    return Result(name, seed, 3, 100, True, "Adam", 2.5, 2.0, 50, **fields)


def test_what_is_kept_is_read_back(tmp_path, settings):
    folder = Folder(tmp_path / "out")
    folder.begin(settings)
    for seed in range(3):
        folder.start("prime", seed, {})
    kept = result(curves={"train_loss": [0.5, 0.25]}, extra={"shares": {"k3": 1.0}})
    folder.keep(kept, {"pixels": np.arange(6, dtype=np.uint8).reshape(2, 3)})
    folder.keep(result(seed=1))
    folder.keep(result(seed=2))  # of a seed that the settings no longer name
    found = Folder(tmp_path / "out").results()
    assert found.settings == settings
    assert found.dataset == "digits"
    assert found.of("prime") == [kept, result(seed=1)]
    assert found.of("probe") == []
    assert found.arrays("prime")["pixels"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found.arrays("probe") is None
    assert folder.result("prime", 0) == kept
    assert folder.result("probe", 0) is None


def test_a_part_goes_on_under_its_own_conditions_only(tmp_path, settings):
    folder = Folder(tmp_path)
    folder.begin(settings)
    folder.start("prime", 0, {"epochs": 3, "images": None})
    folder.check("prime", 0, {"epochs": 3, "images": None})
    folder.check("prime", 1, {"epochs": 4, "images": None})  # not begun
    with pytest.raises(ValueError, match=r"holds part prime run with epochs=3, not 4; .* another folder"):
        folder.check("prime", 0, {"epochs": 4, "images": None})
    folder.begin(dataclasses.replace(settings, seeds=5, epochs=4))
    assert folder.settings().seeds == 5


def test_nothing_of_others_is_touched(tmp_path, settings):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is no reproduction"):
        Folder(tmp_path).begin(settings)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_damaged_files_are_named(tmp_path, settings):
    folder = Folder(tmp_path)
    folder.begin(settings)
    folder.start("prime", 0, {})
    folder.keep(result())
    (folder.of("prime", 0) / "result.json").write_text('{"name": "pri')
    with pytest.raises(ValueError, match=r"result.json is damaged .* delete its folder"):
        folder.results()
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(ValueError, match=r"settings.json is damaged .* --out"):
        folder.settings()
