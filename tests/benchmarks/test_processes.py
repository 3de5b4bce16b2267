"""The case `processes` reads efficiencies from seconds as they are meant."""

import pytest

from benchmarks.cases.processes import figures
from benchmarks.harness import Figure, Timings


def rows(ddp: float, fsdp: float) -> dict[str, Figure]:
    """One process takes 1 s a batch, and each of two side by side 1.05."""
    seconds = {
        "one": 1.0,
        "one, twice the batch": 2.0,
        "two threads, twice the batch": 1.2,
        "side by side": 1.05,
        "ddp": ddp,
        "fsdp": fsdp,
    }
    return {figure.name: figure for figure in figures(Timings({name: [value] for name, value in seconds.items()}))}


def test_two_processes_that_cost_no_more_than_one_are_efficient() -> None:
    found = rows(1.0, 1.0)
    for name in ("DDP, twice the work", "DDP, the same work", "FSDP, twice the work", "FSDP, the same work"):
        ratio = found[name].ratio
        assert ratio is not None
        assert ratio.median == 1.0
        assert found[name].reached


def test_communication_is_told_from_what_the_machine_loses() -> None:
    found = rows(1.05, 1.4)
    assert found["DDP beside no communication"].reached
    assert not found["FSDP beside no communication"].reached
    assert not found["FSDP, twice the work"].reached
    ratio = found["side by side, no communication"].ratio
    assert ratio is not None
    assert ratio.median == pytest.approx(1 / 1.05)


def test_two_processes_beside_two_threads_are_compared_at_one_global_batch() -> None:
    ratio = rows(1.0, 1.0)["two processes beside two threads"].ratio
    assert ratio is not None
    assert ratio.median == pytest.approx(1.2)
