"""What the documentation says is run: the examples in docstrings and the Python blocks of the README."""

import doctest
import importlib
import pkgutil
import re
import struct
from pathlib import Path

import pytest

import primenet_lightning

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
MODULES = sorted(module.name for module in pkgutil.walk_packages(primenet_lightning.__path__, "primenet_lightning."))


def test_modules_of_all_three_packages_are_found():
    assert {
        "primenet_lightning.blocks",
        "primenet_lightning.datamodules.base",
        "primenet_lightning.callbacks.figures",
    } <= {*MODULES}


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.fixture
def tiny_fashion_mnist(tmp_path):
    """Forty images in the official layout of FashionMNIST."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 200), ("t10k", 40)):
        pixels = bytes((37 * i) % 256 for i in range(count * 28 * 28))
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, count, 28, 28) + pixels)
        labels = bytes(i % 10 for i in range(count))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels)
    return tmp_path


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme_example(number, tmp_path, monkeypatch, tiny_fashion_mnist):
    """Each block as it stands, but for the number of epochs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRIMENET_DATA", str(tiny_fashion_mnist))
    namespace: dict = {}
    exec(
        re.sub(r"max_epochs=\d+", "max_epochs=1, limit_train_batches=2, logger=False", BLOCKS[number]),
        namespace,
    )
    if "trainer" in namespace:
        assert namespace["trainer"].global_step > 0
    if "model" in namespace and "trainer" in namespace:
        assert namespace["model"].capsule_optimizers.keys() == {*namespace["model"].network.loss_names}


def test_example_of_deep_stacks():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "deep.md").read_text(), flags=re.DOTALL)
    namespace: dict = {}
    exec(block, namespace)
    assert len(namespace["model"].network.prime_blocks) == 3


def test_the_readme_has_its_examples():
    assert len(BLOCKS) == 4
    for block, word in zip(BLOCKS, ("Trainer", "configure_capsules", "load_arrays", "fit_probe"), strict=True):
        assert word in block


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"(?:configs|benchmarks)/[\w/]+\.\w+", README + (ROOT / "docs" / "deep.md").read_text()):
        assert (ROOT / name).exists(), name
