"""Files of every kind that the package reads, damaged at random, and what came of reading them.

`make_files` trains a small run and writes one of everything; each `Reading` says how one file is read and what it
answers. A damage is refused in a sentence, mentioned in a warning, or without effect; anything else is wrong.
"""

import dataclasses
import hashlib
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from kills import differences
from PIL import Image

from primenet_lightning import PrimeNet
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.commands.main import _sentence, main
from primenet_lightning.commands.resumption import options_of
from primenet_lightning.datamodules.downloaded import check_files
from primenet_lightning.datamodules.folder import FolderDataModule
from primenet_lightning.datamodules.pictures import read_picture
from primenet_lightning.figures.style import new_figure, write_figure
from primenet_lightning.models.backbones import load_weights
from primenet_lightning.reproduction._results import Result, Settings
from primenet_lightning.reproduction._workplace import Folder
from primenet_lightning.runs.folder import RunFolder
from primenet_lightning.runs.report import write_report
from primenet_lightning.training.checkpoints import AtomicCheckpointIO

DAMAGES = ("bit", "bytes", "digit", "line", "truncated", "zeroed", "swapped", "longer")
SMALL = ("--model.reduce_channels=2", "--model.channels=4", "--model.projection_channels=3", "--model.head_channels=5")
OUTCOMES = ("refused", "mentioned", "unharmed", "wrong", "traceback")


class Reading(NamedTuple):
    """How a file is read.

    Attributes:
        kind: Of the file.
        path: The file.
        read: Gives its answer.
        is_same: Whether two answers are the same.
        takes_long: Whether it takes more than some hundredths of a second.
    """

    kind: str
    path: Path
    read: Callable[[], Any]
    is_same: Callable[[Any, Any], bool] = lambda one, other: bool(one == other)
    takes_long: bool = False


class Damage(NamedTuple):
    """What came of one damage.

    Attributes:
        kind: Of the file.
        how: It was damaged.
        outcome: One of `OUTCOMES`.
        words: What was said.
    """

    kind: str
    how: str
    outcome: str
    words: str


def damaged(content: bytes, how: str, moments: random.Random) -> bytes:
    """Damage a file's content at a random place.

    Args:
        content: At least one byte.
        how: One of `DAMAGES`.
        moments: The random numbers.

    Returns:
        Other content.
    """
    data, place = bytearray(content), moments.randrange(len(content))
    if how == "bit":
        data[place] ^= 1 << moments.randrange(8)
    elif how == "bytes":
        end = min(len(data), place + moments.randint(1, 16))
        data[place:end] = moments.randbytes(end - place)
    elif how == "digit":
        digits = [place for place, byte in enumerate(data) if chr(byte).isdecimal()]
        place = moments.choice(digits or [place])
        data[place] = moments.choice(b"0123456789")
    elif how == "line":
        lines = content.splitlines(keepends=True)
        del lines[moments.randrange(len(lines))]
        return b"".join(lines)
    elif how == "truncated":
        del data[place:]
    elif how == "zeroed":
        end = min(len(data), place + moments.choice((16, 512, 4096)))
        data[place:end] = bytes(end - place)
    elif how == "swapped":
        size = min(moments.choice((16, 512)), max(1, len(data) // 2))
        other = moments.randrange(max(1, len(data) - size + 1))
        place = min(place, len(data) - size)
        data[place : place + size], data[other : other + size] = data[other : other + size], data[place : place + size]
        del data[len(content) :]
    else:
        data += moments.randbytes(moments.randint(1, 600))
    return bytes(data)


def try_damage(reading: Reading, expected: Any, how: str, moments: random.Random) -> Damage | None:
    """Damage a file, read it, and put it back.

    Args:
        reading: How.
        expected: What the undamaged file answers.
        how: It is damaged.
        moments: The random numbers.

    Returns:
        What came of it; None where the damage changed nothing.
    """
    content = reading.path.read_bytes()
    other = damaged(content, how, moments)
    if other == content:
        return None
    reading.path.write_bytes(other)
    try:
        outcome, words = _outcome(reading, expected)
    finally:
        reading.path.write_bytes(content)
    return Damage(reading.kind, how, outcome, words)


def _outcome(reading: Reading, expected: Any) -> tuple[str, str]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            answer = reading.read()
        except SystemExit as error:  # of the command's parser, which has told it
            return ("refused", "the parser's sentence") if error.code in (1, 2) else ("traceback", repr(error))
        except Exception as error:
            sentence = _sentence(error)
            return ("refused", sentence) if sentence else ("traceback", repr(error))
    if reading.is_same(answer, expected):
        return "unharmed", ""
    name = reading.path.name
    words = [str(one.message) for one in told if name.removeprefix(".") in str(one.message)]
    return ("mentioned", words[0]) if words else ("wrong", f"{answer!r:.300}")


# -- one of everything -------------------------------------------------------------------------------------------------


def make_files(folder: Path, data: Path) -> list[Reading]:
    """Write one file of each kind.

    Args:
        folder: An empty one.
        data: The repository's ``tests/data``, with files of version 0.1.

    Returns:
        How each is read.
    """
    run = RunFolder(folder / "run")
    quick = [f"--trainer.{name}" for name in ("max_epochs=1", "limit_train_batches=4", "accelerator=cpu")]
    quick += ["--trainer.enable_progress_bar=false", "--figures=false", *SMALL]
    with _silent():
        assert main(["fit", f"--run={run.path}", *quick]) == 0
    shutil.copy(data / "run-0.1.ckpt", folder / "old.ckpt")
    return [
        *_checkpoints(run, folder),
        *_of_the_run(run),
        *_of_a_reproduction(folder / "reproduction"),
        *_pictures(folder / "pictures"),
    ]


def _checkpoints(run: RunFolder, folder: Path) -> Iterator[Reading]:
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def predictions() -> list[Any]:
        model = load_model(run.best)
        return [model(images).tolist(), model.data_description, list(model.network.choices())]

    yield Reading("best.ckpt, to predict", run.best, predictions)
    last = run.last
    assert last is not None
    yield Reading("last.ckpt, to resume", last, lambda: AtomicCheckpointIO().load_checkpoint(last), _same_checkpoints)
    old = folder / "old.ckpt"
    state = lambda: dict(PrimeNet.load_from_checkpoint(old, map_location="cpu", weights_only=True).state_dict())  # noqa: E731
    yield Reading("a checkpoint of version 0.1", old, state, _same_checkpoints)
    picture = folder / "digit.png"
    Image.new("L", (8, 8), 90).save(picture)

    def predict() -> str:
        return _command("predict", f"--ckpt={run.path}", picture)

    def test() -> str:
        return _command("test", f"--run={run.path}")

    yield Reading("best.ckpt, by the command", run.best, predict, takes_long=True)
    yield Reading("best.ckpt, tested again", run.best, test, takes_long=True)
    weights = folder / "weights.pt"
    model = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Linear(30, 3))
    torch.save(model.state_dict(), weights)

    def load() -> dict[str, torch.Tensor]:
        other = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Linear(30, 3))
        load_weights(other, str(weights))
        return dict(other.state_dict())

    yield Reading("weights of torch.save, by pretrained", weights, load, _same_checkpoints)


def _of_the_run(run: RunFolder) -> Iterator[Reading]:
    for kind in ("svg", "png"):
        figure = new_figure(2, 2)
        figure.add_subplot().plot([1, 3, 2])
        write_figure(figure, run.figures / f"routing.{kind}", kind)
    (run.figures / "routing.csv").write_text("epoch,least_loss/block0.k3,least_loss/block0.k5\n0,0.5,0.5\n")

    def page() -> str:
        return write_report(run).read_text(encoding="utf-8")

    metrics = run.metrics
    for file in (run.summary, run.config, metrics, metrics.with_name(".metrics.csv.sha256")):
        yield Reading(f"{file.name}, in a report", file, page)
    for name in ("routing.csv", "routing.svg", "routing.png", "losses.png"):
        yield Reading(f"figures/{name}, in a report", run.figures / name, page)

    def validate() -> str:
        return _command("validate", f"--run={run.path}")

    def resumed() -> str:
        return _command("fit", f"--resume={run.path}", "--trainer.max_epochs=2", "--trainer.fast_dev_run=true")

    yield Reading("config.yaml, read again", run.config, lambda: options_of(run))
    yield Reading("config.yaml, by validate", run.config, validate, takes_long=True)
    yield Reading("config.yaml, by resume", run.config, resumed, takes_long=True)
    yield Reading("metrics.csv, by resume", metrics, resumed, takes_long=True)


def _of_a_reproduction(path: Path) -> Iterator[Reading]:
    settings = Settings("digits", "quick", "compact", 2, 3, 2, 200, 32, "32-true")
    folder, conditions = Folder(path), {"epochs": 3, "images": None}
    folder.begin(settings)
    folder.start("prime", 0, conditions)
    result = Result("prime", 0, 3, 100, True, "Adam", 2.5, 2.0, 50, curves={"train_loss": [0.5, 0.25]})
    folder.keep(result, {"pixels": np.arange(600).reshape(2, 300), "names": np.array(["a", "b"])})

    def results() -> list[Any]:
        everything = folder.results()
        arrays = everything.arrays("prime") or {}
        described = {name: array.tolist() for name, array in arrays.items()}
        return [dataclasses.asdict(everything.settings), [*map(dataclasses.asdict, everything.of("prime"))], described]

    part = folder.of("prime", 0)
    for file in (path / "settings.json", part / "result.json", part / "arrays.npz"):
        yield Reading(f"{file.name} of a reproduction", file, results)
    yield Reading("part.json of a reproduction", part / "part.json", lambda: folder.check("prime", 0, conditions))


def _pictures(folder: Path) -> Iterator[Reading]:
    moments = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for place in range(count):
                pixels = moments.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{place}.png")

    def images() -> list[Any]:
        data = FolderDataModule(root=folder, image_size=8, memory_limit=0, cache_folder=folder.parent / "cache")
        data.setup("fit")
        return [data.train_dataset.images.tolist(), data.train_dataset.labels.tolist()]

    images()
    for file in sorted((folder.parent / "cache").iterdir())[:1]:
        yield Reading("pixels kept in a file", file, images)
    picture = folder / "train" / "cat" / "0.png"
    yield Reading("a picture, PNG", picture, lambda: read_picture(picture, (12, 12), 3).tolist())
    official = folder.parent / "images-idx3-ubyte"
    official.write_bytes(moments.bytes(5000))
    md5 = hashlib.md5(official.read_bytes()).hexdigest()

    def read_official() -> bytes:
        check_files("mnist", folder.parent, {official: md5}, verify=True)
        return official.read_bytes()

    yield Reading("a file of a public data set", official, read_official)


# -- comparing ---------------------------------------------------------------------------------------------------------


def _same_checkpoints(one: Any, other: Any) -> bool:
    return not differences(one, other)


def _command(*words: Any) -> str:
    """Run the command; what it refuses is raised as its parser would."""
    out, said = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(said):
        status = main([*map(str, words)])
    if status != 0:
        if "primenet: error: " in said.getvalue() or said.getvalue().startswith("error: "):
            raise SystemExit(status)
        raise RuntimeError(f"status {status} without a sentence: {said.getvalue()[-300:]}")
    lines = [line for line in out.getvalue().splitlines() if "seconds" not in line and "training time" not in line]
    return "\n".join(lines)


@contextmanager
def _silent() -> Iterator[None]:
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        yield
