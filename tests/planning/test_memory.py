"""Memory on paper: what a step holds, how it grows, and what sharding, recomputation and micro-batches change."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.cases.plan import measured_peak
from mcm.networks.presets import PRESETS, parameter_count
from mcm.planning.live import LiveBytes
from mcm.planning.memory import Setting, largest_micro_batch, memory
from mcm.planning.trace import Step, trace

TINY = PRESETS["uvit_tiny"]
SETTING = Setting(TINY, "diffusion", batch=64, bf16=False, emas=2, kind="cpu")


def total(setting: Setting) -> int:
    return sum(memory(setting).values())


@pytest.mark.parametrize(
    "setting",
    [SETTING, replace(SETTING, method="cd", bf16=True), replace(SETTING, recompute=True, accumulate=2)],
    ids=["diffusion", "cd in bf16", "recompute in two micro-batches"],
)
def test_the_plan_is_near_the_peak_of_real_steps(setting: Setting) -> None:
    """Each network has two EMAs in `measured_peak`."""
    assert total(setting) == pytest.approx(measured_peak(setting), rel=0.2)


def test_fake_tensors_are_counted_while_somebody_holds_them() -> None:
    with FakeTensorMode(), LiveBytes() as live:
        with live.labelled("kept"):
            kept = torch.empty(1000)
        with live.labelled("gone"):
            view = torch.empty(500).view(5, 100)[2]
            assert (live.now["kept"], live.now["gone"]) == (4000, 2000), "a view holds all of its storage"
            del view
    assert (live.now["kept"], live.now["gone"], live.highest) == (4000, 0, 6000)
    assert kept.shape == (1000,)


def test_state_is_what_the_parameters_make_it() -> None:
    parts = memory(replace(SETTING, method="cd"))
    weights = 4 * parameter_count(TINY)
    assert parts["weights"] == parts["teacher"] == weights
    assert parts["Adam moments"] == parts["EMAs"] == 2 * weights
    assert "teacher" not in memory(SETTING)


def test_what_a_step_holds_grows_as_its_images_do() -> None:
    """A step of so many images lies on the line through two smaller ones."""
    few, more, most = (trace(Step(TINY, "diffusion", images, kind="cpu")).total for images in (16, 32, 128))
    assert most == pytest.approx(few + (more - few) * (128 - 16) / (32 - 16), rel=0.02)


def test_recomputation_and_bf16_hold_less() -> None:
    plain = memory(SETTING)
    assert total(replace(SETTING, recompute=True)) < total(SETTING)
    assert memory(replace(SETTING, bf16=True))["activations"] < 0.75 * plain["activations"]


def test_a_gpu_keeps_no_weights_of_attention() -> None:
    """Nothing that grows with the square of the number of tokens: of 256 here, at which the CPU keeps them."""
    wide = replace(PRESETS["uvit_tiny"], resolution=64)
    on_cpu, on_gpu = (trace(Step(wide, "diffusion", 8, kind=kind)).total for kind in ("cpu", "gpu"))
    assert on_cpu - on_gpu > 8 * 256 * 256 * 4


def test_fsdp_shares_the_state_and_ddp_copies_it() -> None:
    eight = replace(SETTING, devices=8, method="cd")
    copied, shared = memory(eight), memory(replace(eight, parallel="fsdp"))
    for part in ("weights", "Adam moments", "EMAs", "teacher"):
        assert copied[part] / 8 <= shared[part] < copied[part] / 8 * 1.2
    assert copied["DDP buckets"] == copied["weights"] and "DDP buckets" not in shared
    assert shared["gathered"] < 4 * copied["weights"]


def test_more_micro_batches_hold_fewer_images_and_all_gradients() -> None:
    parts = memory(replace(SETTING, accumulate=4))
    assert parts["gradients"] >= parts["weights"]
    assert parts["activations"] < memory(SETTING)["activations"] / 2


def test_fsdp_holds_whole_gradients_between_micro_batches() -> None:
    """Processes add them up with the last one alone (`mcm.training.parallel.synchronized`)."""
    shared = replace(SETTING, devices=8, parallel="fsdp")
    whole = memory(SETTING)["weights"]
    assert memory(shared)["gradients"] < whole < memory(replace(shared, batch=64 * 8, accumulate=4))["gradients"]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_the_largest_micro_batch_is_that_which_fills_the_device(parallel: str) -> None:
    setting = replace(SETTING, devices=4, batch=400, parallel=parallel)
    capacity = total(setting)
    images = largest_micro_batch(setting, capacity)
    assert images == pytest.approx(100, abs=2)
    assert largest_micro_batch(setting, 1000) == 0
