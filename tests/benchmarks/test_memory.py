"""What measures memory sees an allocation of known size, and nothing that is not there."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.memory import MIB, Growth, Sampler, alone
from benchmarks.tiny import measure

SIZE = 96 * MIB


def test_growth_sees_what_was_freed_before_the_end() -> None:
    with Growth() as nothing:
        pass
    with Growth() as growth:
        held = bytearray(SIZE)
        held[::1024] = b"1" * len(held[::1024])
        del held
    assert nothing.bytes < 4 * MIB
    assert abs(growth.bytes - SIZE) < 8 * MIB  # the kernel counts pages in batches


def test_growth_counts_from_what_is_held_already() -> None:
    before = bytearray(b"1") * (2 * SIZE)  # a higher mark, from before
    del before
    held = bytearray(SIZE)
    held[::1024] = b"1" * len(held[::1024])
    with Growth() as growth:
        more = bytearray(SIZE // 4)
        more[::1024] = b"1" * len(more[::1024])
    assert abs(growth.bytes - SIZE // 4) < 8 * MIB
    del held, more


def test_the_sampler_sees_a_child_and_starts_anew_after_each_look() -> None:
    program = f"held = bytearray(b'1') * {SIZE}; print(flush=True); input()"
    with Sampler(interval=0.01) as sampler:
        time.sleep(0.05)
        before = sampler.take()
        child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        sampler.take()  # a child counts from the second look at it
        with_child = sampler.take()
        child.communicate(b"\n")
        sampler.take()
        after = sampler.take()
    assert SIZE <= with_child - before < SIZE + 64 * MIB
    assert after < with_child - SIZE // 2


def test_a_command_is_measured_by_itself(tmp_path: Path) -> None:
    held = bytearray(b"1") * SIZE  # of this process, and none of the command's
    small = measure([sys.executable, "-c", "pass"], tmp_path)
    large = measure([sys.executable, "-c", f"bytearray(b'1') * {SIZE}"], tmp_path)
    del held
    assert small.bytes < SIZE // 2
    assert SIZE <= large.bytes < SIZE + 64 * MIB
    assert small.seconds > 0


@pytest.mark.slow
def test_a_function_runs_in_a_process_of_its_own_and_its_error_comes_back() -> None:
    assert alone(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        alone(divmod, 1, 0)
