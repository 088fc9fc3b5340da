"""One process trains a run at a time: a lock that ends with its process, however that ends."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from primenet_lightning.files import unwritable
from primenet_lightning.runs.folder import LOCK, RunFolder

try:
    import fcntl
except ImportError:  # on Windows, where runs are not locked
    fcntl = None  # type: ignore[assignment]


@contextmanager
def alone_in(run: RunFolder) -> Iterator[None]:
    """Keep other processes from training a run; its folder is made where it is missing.

    The system lets go of the lock when the process ends: a run that was killed is free at once. On a file system that
    knows no locks there is none.

    Args:
        run: The run.

    Yields:
        Nothing.

    Raises:
        BlockingIOError: If another process trains it.
        OSError: If nothing can be written into the folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, alone_in(RunFolder(folder)):
        ...     is_trained(RunFolder(folder))
        True
    """
    path = run.path / LOCK
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    except BlockingIOError:
        raise BlockingIOError(_in_use(run)) from None
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        os.truncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(file)


def is_trained(run: RunFolder) -> bool:
    """Tell whether a process trains a run at the moment.

    Args:
        run: The run.

    Returns:
        Whether it is locked.
    """
    if fcntl is None:
        return False
    try:
        file = os.open(run.path / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(file)
    return False


@rank_zero_only
def refuse_trained(run: RunFolder) -> None:
    """Refuse a run that another process trains; the first process of a fit looks, for all of them.

    Args:
        run: The run.

    Raises:
        BlockingIOError: If it is locked.
    """
    if is_trained(run):
        raise BlockingIOError(_in_use(run))


def _in_use(run: RunFolder) -> str:
    """Say who trains a run."""
    owner = ""
    with suppress(OSError):
        owner = (run.path / LOCK).read_text(errors="replace")
    return (
        f"the run {run.path} is being trained by {owner or 'another process'}; wait until that has ended, stop it, or "
        "give another run folder"
    )


def _locked(path: Path) -> int:
    """Open and lock a file; BlockingIOError if another has it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise
        except OSError:  # a file system without locks
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        os.close(file)  # its owner took it away between the two lines above
