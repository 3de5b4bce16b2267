"""Time and cost are arithmetic on FLOPs; the paper's stated speeds say that the FLOPs are of the right size."""

import pytest

from mcm.networks.presets import PRESETS
from mcm.planning.cost import PAPER, Work
from mcm.planning.devices import DEVICES
from mcm.planning.flops import Passes, forward_flops, step_flops

TINY = PRESETS["uvit_tiny"]


def test_flops_of_a_run_are_those_of_its_images() -> None:
    work = Work(TINY, "cd", iterations=10, batch=32)
    assert work.flops == 320 * step_flops(TINY, Passes(1, 2))
    assert Work(TINY, "ct", 10, 32).flops < work.flops < Work(TINY, "guided", 10, 32).flops


def test_hours_fall_with_devices_and_grow_with_recomputation() -> None:
    work = Work(TINY, "diffusion", iterations=100, batch=8)
    alone = work.hours(1, peak=1e9, mfu=0.5)
    assert alone == pytest.approx(work.flops / 0.5e9 / 3600)
    assert work.hours(8, 1e9, 0.5) == pytest.approx(alone / 8)
    again = Work(TINY, "diffusion", 100, 8, recompute=True)
    assert again.flops == work.flops
    added = 800 * forward_flops(TINY) / 0.5e9 / 3600
    assert again.hours(1, 1e9, 0.5) == pytest.approx(alone + added)


def test_the_papers_speeds_are_a_plausible_share_of_their_chips() -> None:
    """Eight speeds, four networks of other sizes: all between 0.36 and 0.46 of the peak of TPU v5e."""
    assert len(PAPER) == 8
    for stated in PAPER:
        assert 0.36 < stated.mfu < 0.46, stated


def test_devices_have_room_and_speed() -> None:
    for name, device in DEVICES.items():
        assert device.name == name
        assert 0 < device.usable < device.memory * 2**30
        assert device.bf16 > (device.float32 or 0) and 0 < device.mfu < 1
