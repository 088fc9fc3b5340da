"""Two processes that stay for the whole test session and train together over gloo."""

import importlib.util
import multiprocessing
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:  # not there on Windows
    from multiprocessing.context import ForkServerContext, ForkServerProcess


def load(path: str, name: str) -> Any:
    """A function of a test file, which no other process can import by name."""
    module = sys.modules.get(path)
    if module is None:
        spec = importlib.util.spec_from_file_location(path, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[path] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return getattr(module, name)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def context() -> "ForkServerContext":
    """A server that has imported everything once, and from which processes are forked in no time."""
    if sys.platform == "win32":
        pytest.skip("Windows has no fork server")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["primenet_lightning.commands.fit", "pytest"])
    return server


def serve(rank: int, size: int, port: int, pipe: Connection) -> NoReturn:
    """Do what comes through the pipe, as torchrun's workers would be started."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GROUP_RANK="0",
        WORLD_SIZE=str(size),
        LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="tests",
        WANDB_MODE="disabled",
    )
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    from lightning.pytorch.utilities import rank_zero_only
    from torch import distributed

    rank_zero_only.rank = rank  # type: ignore[attr-defined]  # the server imported Lightning before there was one
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=size, timeout=timedelta(seconds=60))
    while True:
        path, name, args = pickle.loads(pipe.recv_bytes())
        torch.manual_seed(0)
        try:
            error, result = None, load(path, name)(*args)
        except BaseException:
            error, result = traceback.format_exc(), None
        pipe.send_bytes(pickle.dumps((error, result)))


class Ranks:
    """Calls a function of a test file in both processes at once, and gives back both results."""

    def __init__(self, size: int = 2) -> None:
        port = free_port()
        self.pipes: list[Connection] = []
        self.processes: list[ForkServerProcess] = []
        for rank in range(size):
            near_end, far_end = context().Pipe()
            process = context().Process(target=serve, args=(rank, size, port, far_end), daemon=True)
            process.start()
            self.pipes.append(near_end)
            self.processes.append(process)

    def __call__(self, function: Callable[..., Any], *args: Any, timeout: float = 90) -> list[Any]:
        for pipe in self.pipes:
            pipe.send_bytes(pickle.dumps((function.__code__.co_filename, function.__name__, args)))
        answers = []
        for rank, pipe in enumerate(self.pipes):
            if not pipe.poll(timeout):
                self.stop()
                raise TimeoutError(f"rank {rank} has not answered after {timeout} s")
            answers.append(pickle.loads(pipe.recv_bytes()))
        errors = [error for error, _ in answers if error]
        if errors:
            raise AssertionError("\n".join(errors))
        return [result for _, result in answers]

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
