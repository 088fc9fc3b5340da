"""What a user gets: what an import loads, what is exported, and what the files around the package say of it."""

import ast
import json
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import primenet_lightning

ROOT = Path(__file__).parents[1]
HEAVY = {"jsonargparse", "lightning", "matplotlib", "scipy", "sklearn", "torch", "torchmetrics", "torchvision", "wandb"}
NETWORKS = sorted(
    module.name for module in pkgutil.walk_packages(primenet_lightning.nn.__path__, "primenet_lightning.nn.")
)
STEPS = {
    "package": "import primenet_lightning; dir(primenet_lightning); primenet_lightning.__version__",
    "networks": f"import {', '.join(NETWORKS)}",
    "torch part": "from primenet_lightning import PrimeBlock, PrimeNetwork, CompositeOptimizer, count_cost",
    "lightning": "import lightning",
    "all that trains": "import primenet_lightning.callbacks, primenet_lightning.datamodules; "
    "from primenet_lightning import *",
    "subpackages": "primenet_lightning.baselines.OneScale, primenet_lightning.datamodules.ImageDataModule",
}


@pytest.fixture(scope="module")
def loaded():
    """Which of the heavy packages a fresh interpreter has loaded after each step."""
    report = f"print(json.dumps(sorted({HEAVY} & sys.modules.keys())))"
    code = "\n".join(["import json, sys", *(f"{statement}\n{report}" for statement in STEPS.values())])
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return dict(zip(STEPS, (set(json.loads(line)) for line in ended.stdout.splitlines()), strict=True))


def test_nothing_is_loaded_before_it_is_needed(loaded):
    assert loaded["package"] == set()
    assert "primenet_lightning.nn.prime.network" in NETWORKS
    assert loaded["networks"] == {"torch"}
    assert loaded["torch part"] == {"torch"}
    # Lightning loads matplotlib by itself, through torchmetrics, and the newer ones torchvision
    assert loaded["all that trains"] - loaded["lightning"] <= {"torchvision"}
    assert not loaded["all that trains"] & {"jsonargparse", "sklearn", "wandb"}


def test_exports_are_told_alike_to_users_type_checkers_and_the_interpreter():
    tree = ast.parse(Path(primenet_lightning.__file__).read_text(encoding="utf-8"))
    typed = {
        name.name: node.module.removeprefix("primenet_lightning.")
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        for name in node.names
    }
    assert typed == primenet_lightning._HOMES
    assert sorted(typed) == sorted(primenet_lightning.__all__)
    for name, home in typed.items():
        assert getattr(primenet_lightning, name) is getattr(import_module(f"primenet_lightning.{home}"), name)
    assert set(typed) <= set(dir(primenet_lightning))
    with pytest.raises(AttributeError, match="'primenet_lightning' has no attribute 'PrimeNut'"):
        primenet_lightning.PrimeNut  # noqa: B018


def project():
    """The lines of pyproject.toml; Python 3.10 has no reader of TOML."""
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_every_dependency_has_a_lower_bound_and_a_reason():
    listed = project().partition("\ndependencies = [")[2].partition("[project.scripts]")[0]
    lines = [line for line in listed.splitlines() if line.startswith('    "')]
    assert len(lines) > 20
    assert [line for line in lines if not re.match(r' +"[\w-]+(\[\w+\])?>=[^"]+", +# \w.{10}', line)] == []


def test_versions_agree():
    assert f'\nversion = "{primenet_lightning.__version__}"\n' in project()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == primenet_lightning.__version__
    assert citation["references"][0]["doi"] == "10.20944/preprints202107.0699.v1"


def test_workflows_try_each_python_that_is_promised():
    promised = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project())
    tests = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    linux = tests["jobs"]["test"]["strategy"]["matrix"]
    tried = linux["python"] + [row["python"] for row in linux["include"]]
    assert promised == ["3.10", "3.11", "3.12", "3.13"]
    assert set(tried) == set(promised)
    assert {row["os"].partition("-")[0] for row in linux["include"]} == {"macos", "windows"}


def test_workflows_use_actions_of_one_commit():
    """A tag can be moved to other code; a commit cannot. The version stands beside it, for people and Dependabot."""
    for path in (ROOT / ".github" / "workflows").iterdir():
        for action in re.findall(r"uses: (.+)", path.read_text(encoding="utf-8")):
            if not action.startswith("./"):
                assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_workflows_call_targets_that_there_are():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    called = set()
    for path in (ROOT / ".github" / "workflows").iterdir():
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
            for step in job.get("steps", []):
                called |= set(re.findall(r"\bmake ([a-z]+)", step.get("run", "")))
    assert called <= targets
    assert {"test", "lint", "docs", "audit", "wheel", "lowest"} <= called
