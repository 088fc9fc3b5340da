"""The command for a GPU, in its tiny form on the CPU: on a bare machine, called again, and within its minutes."""

import importlib
import json
import os
import pickle
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import Distribution, distribution
from pathlib import Path

import gpu
import gpu_fits
import gpu_place
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
AT_HAND = ("torch", "torchvision", "lightning", "torchmetrics")


def with_all_they_need(names: tuple[str, ...]) -> Iterator[Distribution]:
    """These packages, and those that pip installs with them."""
    waiting, known = list(names), set()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in known:
            continue
        known.add(name)
        try:
            package = distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a part of CUDA that this machine does without
        yield package
        for line in package.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)


@pytest.fixture(scope="module")
def bare_machine(tmp_path_factory):
    """A folder of packages like that of a machine on which only four were installed."""
    folder = tmp_path_factory.mktemp("site-packages")
    for package in with_all_they_need(AT_HAND):
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(package.locate_file(top))
    assert not (folder / "sklearn").exists()
    assert not (folder / "matplotlib").exists()
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Unpacked files of MNIST and CIFAR-10, of 120 made-up images each."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    raw, batches = folder / "MNIST" / "raw", folder / "cifar-10-batches-py"
    raw.mkdir(parents=True)
    batches.mkdir()
    labels = np.arange(120, dtype=np.uint8) % 10
    for split in ("train", "t10k"):
        images = generator.integers(256, size=(120, 28, 28), dtype=np.uint8)
        header = struct.pack(">IIII", 0x803, 120, 28, 28)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 120) + labels.tobytes())
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        images = generator.integers(256, size=(120, 3072), dtype=np.uint8)
        (batches / name).write_bytes(pickle.dumps({"data": images, "labels": labels.tolist()}))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    return folder


def place(tmp_path, data, seconds=3600.0):
    return gpu_place.Place("cpu", data, tmp_path, gpu_place.TINY, time.monotonic() + seconds, is_tiny=True)


def test_a_bare_machine_does_every_part(bare_machine, data, tmp_path):
    command = [sys.executable, "-S", ROOT / "benchmarks" / "gpu.py", "--tiny", "--out", tmp_path, "--data", data]
    environment = os.environ | {"PYTHONPATH": str(bare_machine), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    last = json.loads(run.stdout.splitlines()[-1])
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert last["done"] == [part.name for part in gpu.parts(gpu_place.TINY)] == list(kept)
    assert (last["failed"], last["left"]) == ([], [])
    # what can be known without a GPU
    for name, figures in kept.items():
        assert figures.get("holds", True), name
        assert figures["device"].startswith("cpu")
    assert kept["check_one_process"]["largest_difference_by_messages"] == 0
    assert kept["check_mixed_precision"]["validation_error_16_mixed"] == 0
    assert kept["fast_cifar10_local_0"]["epochs"] == 1
    assert 0 < kept["step_compact_eager"]["share_of_rate"] < 1
    assert kept["ratio_stack2_capsules2"]["bytes"]["local_by_stage"] < kept["ratio_stack2_capsules2"]["bytes"]["twin"]


def test_a_training_stops_in_time_and_goes_on_to_the_same_end(data, tmp_path):
    begun = gpu_fits.mnist(place(tmp_path / "in two", data, seconds=0.0))
    assert begun[gpu_place.UNFINISHED]
    assert begun["epochs"] == 1
    assert 0 <= begun["val_error"] <= 100
    in_two = gpu_fits.mnist(place(tmp_path / "in two", data))
    assert gpu_place.UNFINISHED not in in_two
    at_once = gpu_fits.mnist(place(tmp_path / "at once", data))
    assert in_two["epochs"] == 2
    assert in_two["test_error"] == at_once["test_error"]
    assert in_two["seconds_of_fit"] > 0


def fake(name, calls, figures, seconds=0.0, needs=None):
    def work(place):
        calls.append(name)
        if isinstance(figures, Exception):
            raise figures
        return figures

    return gpu_place.Part(name, seconds, work, needs)


def test_what_is_done_is_kept_and_not_done_again(data, tmp_path):
    calls = []
    todo = [
        fake("first", calls, {"ms": 1 / 3, "of": [2, {"a": 0.123456789}]}),
        fake("broken", calls, RuntimeError("no")),
        fake("unfinished", calls, {gpu_place.UNFINISHED: True, "epochs": 3}),
        fake("without data", calls, {}, needs="ImageNet"),
        fake("last", calls, {}),
    ]
    here = place(tmp_path, data)
    assert gpu.work(todo, gpu_place.Kept(tmp_path), here) == ["unfinished"]
    kept = gpu_place.Kept(tmp_path)  # read from the file
    assert list(kept.parts) == ["first", "broken", "unfinished", "last"]
    assert kept.parts["unfinished"]["epochs"] == 3
    assert kept.parts["first"]["ms"] == 0.33333
    assert kept.parts["first"]["of"] == [2, {"a": 0.12346}]
    assert kept.parts["broken"][gpu_place.FAILURE] == "RuntimeError: no"
    calls.clear()
    assert gpu.work(todo, kept, here) == ["unfinished"]
    assert calls == ["unfinished"]
    calls.clear()
    gpu.work(todo, kept, here, again=True)
    assert calls == ["broken", "unfinished"]


def test_no_part_is_begun_that_would_not_end_in_time(data, tmp_path):
    calls = []
    todo = [fake("long", calls, {}, seconds=60), fake("short", calls, {}, seconds=5)]
    here = gpu_place.Place("cpu", data, tmp_path, gpu_place.FULL, time.monotonic() + 30)
    assert gpu.work(todo, gpu_place.Kept(tmp_path), here) == ["long"]
    assert calls == ["short"]


def test_after_an_error_that_breaks_the_device_no_part_is_begun(data, tmp_path, monkeypatch):
    calls = []
    todo = [fake("breaks", calls, RuntimeError("an illegal memory access")), fake("next", calls, {})]
    monkeypatch.setattr(gpu_place.Place, "is_sound", lambda self: not calls)
    kept = gpu_place.Kept(tmp_path)
    assert gpu.work(todo, kept, place(tmp_path, data)) == ["next"]
    assert calls == ["breaks"]
    assert "illegal memory access" in kept.parts["breaks"][gpu_place.FAILURE]


def test_a_training_without_validation_images_goes_on_too(data, tmp_path):
    def here(seconds):
        sizes = replace(gpu_place.TINY, fast_epochs=2)
        return replace(place(tmp_path, data, seconds), sizes=sizes)

    begun = gpu_fits.fast_cifar10(0, True, here(0.0))
    assert begun[gpu_place.UNFINISHED]
    assert begun["epochs"] == 1
    assert gpu_fits.fast_cifar10(0, True, here(3600.0))["epochs"] == 2


def test_the_command_says_what_it_cannot_do(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="torch sees no GPU"):
        gpu.main(["--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="names no part; use check_mixed_precision"):
        gpu.main(["--out", str(tmp_path), "--tiny", "--only", "nothing"])
    assert list(tmp_path.iterdir()) == []


def test_the_command_asks_to_be_called_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "parts", lambda sizes: [fake("unfinished", [], {gpu_place.UNFINISHED: True})])
    precision = gpu.torch.get_float32_matmul_precision()
    try:
        assert gpu.main(["--out", str(tmp_path), "--tiny"]) == gpu.CALL_AGAIN
    finally:
        gpu.torch.set_float32_matmul_precision(precision)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == {"done": [], "failed": [], "left": ["unfinished"], "call_again": True}
