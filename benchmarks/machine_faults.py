"""What befalls a run on a real machine, and what it comes to.

`faults.py --machine` calls it. Each fault strikes a small run of ``primenet fit`` in processes of its own. The run has
to end with status 0, or in one sentence; what checkpoints there are must be whole, no draft may be left, and the run,
gone on with where it had ended, must be the run to which nothing happens, to the last bit.
"""

import os
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stand_in import Manner, StandIn
from strikes import STEP
from trials import Outcome, Trials, seen_of

from primenet_lightning.training.checkpoint_files import read_checkpoint, write_checkpoint

STOPPED = 30.0
"""Seconds that a process is stopped."""

# -- what befalls ------------------------------------------------------------------------------------------------------

Fault = Callable[[Trials], tuple[str, str, list[str]]]


def _struck(strike: str, kind: str = "single", without: str = " ", **variables: str) -> Fault:
    """From within."""

    def fault(trials: Trials) -> tuple[str, str, list[str]]:
        trials.unbroken(kind)
        session = trials.session(kind, strike)
        session.environment |= variables
        session.begin()
        status = session.wait()
        _unmount(session.folder / "checkpoints")
        return trials.judge(session, kind, status, without)

    return fault


def _stopped(kind: str) -> Fault:
    """One process is stopped for a while."""

    def fault(trials: Trials) -> tuple[str, str, list[str]]:
        trials.unbroken(kind)
        session = trials.session(kind)
        session.begin()
        session.wait_for_step(trials.moments.randrange(5, 60))
        victim = trials.moments.choice(session.members())
        session.signal([victim], signal.SIGSTOP)
        time.sleep(STOPPED)
        session.signal([victim], signal.SIGCONT)
        seen, lost, wrong = trials.judge(session, kind, session.wait())
        if seen != "nothing":
            wrong.append(f"the run was ended by a pause: {seen}")
        return seen, lost, wrong

    return fault


def _little_memory(trials: Trials) -> tuple[str, str, list[str]]:
    """Less and less address space from the beginning on, until the run cannot begin; the last limit is told of."""
    trials.unbroken("single")
    session = trials.session()
    session.begin()
    session.wait_for_step(1)
    status = Path(f"/proc/{session.process.pid}/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmPeak")).split()[1]) * 1024
    session.end()
    wrong: list[str] = []
    told: list[str] = []
    for share in (0.98, 0.9, 0.6, 0.3):
        session = trials.session()
        limit = (int(peak * share), resource.RLIM_INFINITY)
        session.prepare = lambda limit=limit: resource.setrlimit(resource.RLIMIT_AS, limit)
        session.begin()
        seen, _, faults = trials.judge(session, "single", session.wait())
        told.append(f"{share:.0%}: {seen}")
        wrong += [f"{share:.0%} of the address space: {fault}" for fault in faults]
    return "; ".join(told), "nothing", wrong


def _full_disk(kind: str) -> Fault:
    """A small disk of memory is full in the middle; then there is room again."""

    def fault(trials: Trials) -> tuple[str, str, list[str]]:
        trials.unbroken(kind)
        with _small_disk(trials.folder / f"disk_{kind}") as disk:
            session = trials.session(kind, "fill_disk", disk)
            session.begin()
            status = session.wait()
            (disk / "ballast").unlink(missing_ok=True)
            return trials.judge(session, kind, status)

    return fault


def _read_only(trials: Trials) -> tuple[str, str, list[str]]:
    """The run's place is read-only from the beginning."""
    with _small_disk(trials.folder / "read_only") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        session = trials.session(parent=disk)
        session.begin()
        status = session.wait()
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        return trials.judge(session, "single", status)


def _wandb(manner: Manner) -> Fault:
    """W&B's server is not well."""

    def fault(trials: Trials) -> tuple[str, str, list[str]]:
        trials.unbroken("single")
        with StandIn(manner) as server:
            session = trials.session()
            session.environment |= server.variables
            session.begin()
            session.wait_for_step(STEP)
            if manner == "goes away":
                server.go_away()
            status = session.wait()
        seen, lost, wrong = trials.judge(session, "single", status)
        if status != 0:
            wrong.append(f"W&B has ended the run, status {status}")
        if not list(session.folder.glob("wandb/*run-*/run-*.wandb")):
            wrong.append("nothing is kept of W&B's run")
        return seen, lost, wrong

    return fault


def _second_process(trials: Trials) -> tuple[str, str, list[str]]:
    """Another process goes on with the run meanwhile."""
    trials.unbroken("single")
    session = trials.session()
    session.begin()
    session.wait_for_step(5)
    session.signal(session.members(), signal.SIGSTOP)  # or it may have ended before the other one has begun
    second = trials.session()
    second.folder = session.folder
    second.begin()
    status = second.wait()
    session.signal(session.members(), signal.SIGCONT)
    _, lost, wrong = trials.judge(session, "single", session.wait())
    if status != 1 or "Traceback" in second.words:
        wrong.append(f"the second process ended with {status}: {second.words[-500:]}")
    return seen_of(second), lost, wrong


def _replaced(in_place: bool) -> Fault:
    """A checkpoint is replaced by two others in turns while it is read, as the package does it, or written over."""

    def fault(trials: Trials) -> tuple[str, str, list[str]]:
        content = read_checkpoint(trials.unbroken("single") / "checkpoints/last.ckpt")
        others = [trials.folder / "one.ckpt", trials.folder / "other.ckpt"]
        for place, other in enumerate(others):
            write_checkpoint(content | {"global_step": place}, other)
        target, draft = trials.folder / "replaced.ckpt", trials.folder / "replaced.new"
        shutil.copy(others[0], target)
        ends = threading.Event()

        def replace() -> None:
            while not ends.is_set():
                for other in others:
                    shutil.copy(other, target if in_place else draft)
                    if not in_place:
                        draft.replace(target)
                    time.sleep(0.01)

        thread = threading.Thread(target=replace)
        thread.start()
        counts, refused, wrong = [0, 0], list[str](), list[str]()
        for _ in range(200):
            try:
                counts[read_checkpoint(target)["global_step"]] += 1
            except ValueError as error:
                refused.append(str(error).replace(str(trials.folder), ""))
            except Exception as error:
                wrong.append(f"{type(error).__name__}: {error}")
        ends.set()
        thread.join()
        if refused and not in_place:
            wrong.append("a checkpoint that was replaced as a whole was refused")
        seen = f"of 200 reads {counts[0]} of the one, {counts[1]} of the other, {len(refused)} refused"
        return "; ".join([seen, *refused[:1]]), "nothing", wrong

    return fault


@contextmanager
def _small_disk(folder: Path, size: str = "8m") -> Iterator[Path]:
    """A disk of memory; PermissionError where the user may not mount one."""
    folder.mkdir()
    if os.geteuid() != 0:
        raise PermissionError("only root may mount a disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        _unmount(folder)


def _unmount(folder: Path) -> None:
    if f" {folder} " in Path("/proc/self/mounts").read_text():  # os.path.ismount knows of no folder bound to itself
        subprocess.run(["umount", "-l", str(folder)], check=True)


FAULTS: dict[str, Fault] = {
    "one process stopped for 30 s (SIGSTOP)": _stopped("single"),
    "one of two ranks stopped for 30 s": _stopped("ranks"),
    "one of two processes of a pipeline stopped for 30 s": _stopped("pipeline"),
    "no more address space in the middle (RLIMIT_AS)": _struck("limit_memory"),
    "little address space from the start": _little_memory,
    "disk full in the middle (tmpfs)": _full_disk("single"),
    "disk full in the middle, two ranks": _full_disk("ranks"),
    "files limited in size in the middle (RLIMIT_FSIZE)": _struck("limit_files"),
    "EIO from the middle on": _struck("break_disk"),
    "EIO from the middle on, two ranks": _struck("break_disk", "ranks"),
    "place read-only at the start (mount)": _read_only,
    "checkpoints read-only from the middle on (mount)": _struck("make_read_only"),
    "checkpoints deleted in the middle": _struck("remove_checkpoints"),
    "run folder deleted in the middle": _struck("remove_run", without="metrics.csv"),
    "clock set back by a day": _struck("set_clock_back"),
    "clock set forward by 30 days": _struck("set_clock_forward"),
    "worker of a DataLoader killed": _struck("kill_children", "worker"),
    "W&B's service killed": _struck("kill_children", WANDB_MODE="offline"),
    "W&B's server stalls": _wandb("stalls"),
    "W&B's server breaks off": _wandb("breaks off"),
    "W&B's server is slow": _wandb("slow"),
    "W&B's server has errors": _wandb("errors"),
    "W&B's server goes away in the middle": _wandb("goes away"),
    "a second process goes on with the run": _second_process,
    "checkpoint replaced while it is read": _replaced(in_place=False),
    "checkpoint written over by another program while it is read": _replaced(in_place=True),
}
"""By name."""


def machine_faults(only: str, seed: int) -> list[Outcome]:
    """Try each fault.

    Args:
        only: Faults with these words in their names.
        seed: Of all that is random.

    Returns:
        What came of each; those that need a right that the user has not are left out, with a word.
    """
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        trials = Trials(Path(folder), seed)
        for name, fault in FAULTS.items():
            if only not in name:
                continue
            try:
                outcome = Outcome(name, *fault(trials))
            except PermissionError as error:
                print(f"{name}: not tried ({error})", flush=True)
                continue
            outcomes.append(outcome)
            print(f"{name} | {outcome.seen} | {outcome.lost}", flush=True)
            for line in outcome.wrong:
                print(f"    wrong: {line}", flush=True)
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """Lay the outcomes out as a table in Markdown."""
    lines = ["| fault | what the user saw | what was lost |", "|---|---|---|"]
    for outcome in outcomes:
        lines.append(f"| {outcome.fault} | {outcome.seen[:400]} | {outcome.lost} |")
    return "\n".join(lines)
