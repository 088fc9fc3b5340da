"""A training step of this checkout over the same step of an older commit, and over end to end in both.

    python benchmarks/commits.py COMMIT [--cases NAME ...] [--rounds 9]
    python benchmarks/commits.py COMMIT --lightning [--root DIR] [--rounds 9]

Each commit has a process of its own, with one thread, which runs the package as it was then and keeps freed memory if
the package could. Both have the same networks, images and first weights. They take their steps in turns, local and end
to end, in an order that is drawn anew in each round, while the other process waits. Times are processor time, so that
what else the machine does counts little. The older commit is checked out into a temporary folder. It must know all that
``stacks.py`` builds. ``--lightning`` instead runs ``step.py`` with both, in turns: what a Trainer's step takes over the
bare one. The last line is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from timing import conclude, in_turns, machine, ratio, spread

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 3


class Case(NamedTuple):
    """What is trained.

    Attributes:
        size: ``"compact"`` or ``"paper"``, or None for what `name` is in ``over_end_to_end.cases``.
        batch: Images.
        in_shape: Channels, height and width of them.
    """

    size: str | None
    batch: int
    in_shape: tuple[int, int, int] = (3, 32, 32)


CASES = {
    "compact_mnist": Case("compact", 200, (1, 28, 28)),
    "compact_cifar10": Case("compact", 200),
    "paper_cifar10": Case("paper", 50),
    "stack1x1": Case(None, 128),
    "stack3x1": Case(None, 128),
    "stack6x1": Case(None, 128),
    "stack3x3": Case(None, 128),
    "stack3x3_committed": Case(None, 128),
    "resnet20_in2": Case(None, 128),
    "resnet20_in4": Case(None, 128),
}
SIDES = ("local", "twin")
LIGHTNING_DATA = ("mnist", "digits")


# -- the process of a commit -------------------------------------------------------------------------------------------


def serve(case_name: str) -> None:
    """Take a step for each line of standard input that names a side, and answer with its seconds."""
    import torch

    import primenet_lightning

    if hasattr(primenet_lightning, "keep_freed_memory"):
        primenet_lightning.keep_freed_memory()
    torch.set_num_threads(1)
    step = steps_of(case_name)
    print(Path(primenet_lightning.__file__).parents[1], flush=True)
    for line in sys.stdin:
        begin = time.process_time()
        step[line.strip()]()
        print(time.process_time() - begin, flush=True)


def steps_of(case_name: str) -> dict[str, Callable[[], object]]:
    """Build the step of each side.

    Args:
        case_name: Of `CASES`.

    Returns:
        By the name of the side.
    """
    import torch
    from over_end_to_end import cases
    from stacks import Pair, runner_of, stack

    from primenet_lightning import architecture

    case = CASES[case_name]
    if case.size is None:
        pair: Pair = cases(case.in_shape)[case_name]()
    else:
        widths = architecture(case.size, case.in_shape[1:])  # type: ignore[arg-type]
        pair = stack(1, 3, in_shape=case.in_shape, widths=widths, pool_every=1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(case.batch, *case.in_shape, generator=generator)
    target = torch.randint(10, (case.batch,), generator=generator)
    return {side: partial(runner_of(getattr(pair, side)).step, images, target) for side in SIDES}


# -- the two commits ---------------------------------------------------------------------------------------------------


class Commit:
    """A process that runs the package of a commit; use it in a ``with`` statement.

    Args:
        tree: Where that commit is checked out.
        case_name: Of `CASES`.

    Raises:
        RuntimeError: If the process runs another package than that one, or ends.
    """

    def __init__(self, tree: Path, case_name: str) -> None:
        command = [sys.executable, __file__, "--serve", case_name]
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload]
        self.times: dict[str, list[float]] = {side: [] for side in SIDES}
        loaded = self._answer()
        try:
            refuse_another_package(loaded, tree)
        except RuntimeError:
            self.process.kill()
            raise

    def __enter__(self) -> "Commit":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def step(self, side: str) -> None:
        """Take a step, and note its time."""
        print(side, file=self.process.stdin, flush=True)
        self.times[side].append(float(self._answer()))

    def _answer(self) -> str:
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise RuntimeError("a process has ended; what it printed above says why")
        return str(answer)


def refuse_another_package(loaded: str, tree: Path) -> None:
    """Check that a process has run the package that it was to run.

    Args:
        loaded: The folder that its package lies in.
        tree: That it should be.

    Raises:
        RuntimeError: If they are two.
    """
    if Path(loaded) != tree.resolve():
        raise RuntimeError(f"the package of {tree} was to be measured, and {loaded} was loaded")


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Give a temporary folder with the files of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(["tar", "-x", "-C", folder], check=True, input=archive)
        yield Path(folder)


def measure(case_name: str, older_tree: Path, rounds: int) -> dict[str, float]:
    """Time a case in both commits in turns, and print a line.

    Args:
        case_name: Of `CASES`.
        older_tree: Where the older commit lies.
        rounds: That count.

    Returns:
        Figures by name.
    """
    with Commit(older_tree, case_name) as older, Commit(ROOT, case_name) as newer:
        commits = {"older": older, "newer": newer}
        turns = {(name, side): partial(commits[name].step, side) for name in commits for side in SIDES}
        in_turns({"/".join(key): turn for key, turn in turns.items()}, rounds, WARM_UP)
        times = {(name, side): commits[name].times[side][WARM_UP:] for name, side in turns}
    gain = ratio(times["older", "local"], times["newer", "local"])
    before = ratio(times["older", "local"], times["older", "twin"])
    now = ratio(times["newer", "local"], times["newer", "twin"])
    milliseconds = 1000 * spread(times["newer", "local"]).median
    print(
        f"{case_name:>20}  {milliseconds:7.1f} ms of CPU, older over newer {gain}; over end to end {before}, now {now}"
    )
    sys.stdout.flush()
    return {
        f"{case_name}_older_over_newer": gain.median,
        f"{case_name}_older_over_end_to_end": before.median,
        f"{case_name}_newer_over_end_to_end": now.median,
        f"{case_name}_newer_ms": milliseconds,
    }


def over_bare(tree: Path, root: str | None) -> dict[str, float]:
    """Run ``step.py`` with the package of a commit, and give its figures; its bounds are not looked at.

    Raises:
        RuntimeError: If it gives none, or has run another package.
    """
    command = [sys.executable, str(Path(__file__).with_name("step.py")), "--clock", "cpu", "--steps", "300"]
    if root is not None:
        command += ["--root", root]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "WANDB_SILENT": "true"}
    lines = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    if not lines or not lines[-1].startswith("{"):
        raise RuntimeError(f"step.py has measured nothing with the package of {tree}; what it printed above says why")
    figures: dict[str, Any] = json.loads(lines[-1])
    refuse_another_package(figures["package"], tree)
    return figures


def measure_lightning(older_tree: Path, rounds: int, root: str | None) -> dict[str, float]:
    """Compare what Lightning adds to a step in both commits, run in turns, and print a line for each data set.

    Args:
        older_tree: Where the older commit lies.
        rounds: Runs of each commit.
        root: Folder of MNIST; None takes the default of its data module.

    Returns:
        Figures by name: medians of the runs.
    """
    runs: dict[str, list[dict[str, float]]] = {"older": [], "newer": []}
    trees = {"older": older_tree, "newer": ROOT}

    def run(name: str) -> None:
        runs[name].append(over_bare(trees[name], root))

    in_turns({name: partial(run, name) for name in trees}, rounds, warm_up=0)
    figures: dict[str, float] = {}
    for data in LIGHTNING_DATA:
        for name, of_commit in runs.items():
            over = spread([one[f"{data}_lightning_over_bare"] for one in of_commit])
            added = spread([one[f"{data}_overhead_ms"] for one in of_commit])
            bare = spread([one[f"{data}_bare_ms"] for one in of_commit])
            print(
                f"{data:>8}, {name}: Lightning over the bare step {over.median:.3f} "
                f"({over.low:.3f} to {over.high:.3f}), {added.median:.2f} ms more than {bare.median:.2f}"
            )
            figures[f"{data}_{name}_lightning_over_bare"] = over.median
            figures[f"{data}_{name}_added_ms"] = added.median
            figures[f"{data}_{name}_bare_ms"] = bare.median
    return figures


def main() -> None:
    """Measure the cases and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", nargs="?", help="The older one, as git knows it.")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--lightning", action="store_true", help="Compare what Lightning adds to a step instead.")
    parser.add_argument("--root", default=None, help="Folder of MNIST for --lightning.")
    parser.add_argument("--serve", metavar="CASE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    if options.commit is None:
        parser.error("name the older commit")
    figures: dict[str, float | str] = {}
    with checked_out(options.commit) as older_tree:
        if options.lightning:
            figures |= measure_lightning(older_tree, options.rounds, options.root)
        else:
            for case_name in options.cases:
                figures |= measure(case_name, older_tree, options.rounds)
    conclude(figures | {"device": machine(), "older": options.commit}, [])


if __name__ == "__main__":
    main()
