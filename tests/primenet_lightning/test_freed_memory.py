"""A process that keeps what it frees is not given new pages for the same tensors."""

import subprocess
import sys

import pytest

from primenet_lightning.freed_memory import SWITCHES, keep_freed_memory

FREED_AND_MADE_AGAIN = """
import resource, sys
from primenet_lightning.freed_memory import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "kept" else False

def pages_of_a_large_array():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(b"x") * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages_of_a_large_array()
print(int(kept), pages_of_a_large_array())
"""
PAGES = 2**26 // 4096


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory only")
def test_what_is_freed_is_there_for_what_comes_next(monkeypatch):
    for switch in SWITCHES:
        monkeypatch.delenv(switch, raising=False)
    figures = {}
    for side in ("kept", "given back"):
        command = [sys.executable, "-c", FREED_AND_MADE_AGAIN, side]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        figures[side] = tuple(int(number) for number in answer.split())
    kept, pages = figures["kept"]
    assert kept
    assert pages < PAGES / 100
    assert figures["given back"][1] >= PAGES


@pytest.mark.parametrize("switch", SWITCHES)
def test_what_the_user_has_set_stays(switch, monkeypatch):
    monkeypatch.setattr("primenet_lightning.freed_memory._mallopt", pytest.fail)
    monkeypatch.setenv(switch, "1")
    assert not keep_freed_memory()


def test_without_glibc_nothing_is_done(monkeypatch):
    for switch in SWITCHES:
        monkeypatch.delenv(switch, raising=False)
    monkeypatch.setattr("primenet_lightning.freed_memory._mallopt", lambda: None)
    assert not keep_freed_memory()
