"""Which device a process takes, and what is said where the one that is asked for cannot be had."""

import importlib.util
from collections.abc import Callable, Mapping
from types import ModuleType, SimpleNamespace

import pytest
import torch

from mcm.errors import UserError
from mcm.training.config import TrainingConfig
from mcm.training.devices import DEVICES, chosen
from mcm.training.distributed import Processes
from mcm.training.ema import EMAs
from mcm.training.parallel import parallelize

Installed = Callable[..., None]
TOLD = {"TORCH_TPU_SLICEBUILDER_ADDRESSES": "localhost:8070,localhost:8071", "TORCH_TPU_TOPOLOGY": "1,2,1"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Make it look as if these libraries were installed, and whether torch_tpu has found a TPU and CUDA a GPU."""
    real = importlib.util.find_spec

    def set_up(*names: str, tpu: bool = False, gpu: bool = False) -> None:
        def find(name: str, package: str | None = None) -> object:
            return (object() if name in names else None) if name in ("torch_xla", "torch_tpu") else real(name, package)

        monkeypatch.setattr(importlib.util, "find_spec", find)
        found = SimpleNamespace(type="tpu") if tpu else None
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: found)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)

    return set_up


@pytest.mark.parametrize(
    ("names", "tpu", "gpu", "environment", "kind"),
    [
        ((), False, False, {}, "cpu"),
        ((), False, True, {}, "cuda"),
        (("torch_xla",), False, True, {}, "cuda"),  # it is not asked for
        (("torch_xla",), False, True, {"PJRT_DEVICE": "CPU"}, "xla"),
        (("torch_xla",), False, False, {"PJRT_DEVICE": "TPU", "TPU_ACCELERATOR_TYPE": "v6e-1"}, "xla"),
        (("torch_tpu",), True, False, {"TPU_ACCELERATOR_TYPE": "v6e-1"}, "tpu"),
        (("torch_tpu",), True, False, {"PJRT_DEVICE": "TPU"}, "tpu"),
        (("torch_tpu",), False, False, {}, "cpu"),  # the tpu image on a node without one
        (("torch_tpu", "torch_xla"), True, False, {"PJRT_DEVICE": "TPU"}, "xla"),
    ],
)
def test_what_is_asked_for_is_taken_then_what_is_there(
    installed: Installed, names: tuple[str, ...], tpu: bool, gpu: bool, environment: Mapping[str, str], kind: str
) -> None:
    installed(*names, tpu=tpu, gpu=gpu)
    assert chosen(environment) == kind and kind in DEVICES


@pytest.mark.parametrize(
    ("names", "tpu", "environment", "processes", "message"),
    [
        (
            (),
            False,
            {"PJRT_DEVICE": "TPU"},
            1,
            "PJRT_DEVICE=TPU: neither torch_xla nor torch_tpu can be imported; install torch_tpu==0.2.0 beside this "
            "torch, or torch_xla==2.9.0 with torch==2.9.0 in an environment of its own (docs/tpu.md)",
        ),
        (
            ("torch_tpu",),
            False,
            {"PJRT_DEVICE": "CPU"},
            1,
            "PJRT_DEVICE=CPU: torch_xla cannot be imported; install torch_xla==2.9.0 with torch==2.9.0 in an "
            "environment of its own (docs/tpu.md)",
        ),
        (
            ("torch_tpu",),
            False,
            {"PJRT_DEVICE": "TPU"},
            1,
            "PJRT_DEVICE=TPU: torch_tpu finds no TPU here; unset PJRT_DEVICE to use what there is",
        ),
        (
            ("torch_xla",),
            False,
            {"PJRT_DEVICE": "CUDA"},
            1,
            "PJRT_DEVICE=CUDA: known are CPU and TPU; set one of them, or unset it",
        ),
        (
            ("torch_xla",),
            False,
            {"PJRT_DEVICE": "CPU"},
            2,
            "PJRT_DEVICE=CPU with 2 processes: XLA's CPU has no sums over processes; run one process, or unset "
            "PJRT_DEVICE for torch's own CPU",
        ),
        (
            ("torch_tpu",),
            True,
            {},
            2,
            "2 processes on a TPU: TORCH_TPU_SLICEBUILDER_ADDRESSES and TORCH_TPU_TOPOLOGY not set; set what `python "
            "-m torch.tpu.distributed` prints before torchrun (docs/tpu.md)",
        ),
        (
            (),
            False,
            {"TPU_ACCELERATOR_TYPE": "v6e-1"},
            1,
            "TPU v6e-1: neither torch_tpu nor torch_xla can use it; install torch_tpu==0.2.0 beside this torch, or "
            "torch_xla==2.9.0 with torch==2.9.0 in an environment of its own (docs/tpu.md)",
        ),
        (
            ("torch_xla",),
            False,
            {"TPU_ACCELERATOR_TYPE": "v6e-1"},
            1,
            "TPU v6e-1: torch_xla is installed and not asked for; set PJRT_DEVICE=TPU",
        ),
    ],
)
def test_what_cannot_be_had_is_one_line(
    installed: Installed,
    names: tuple[str, ...],
    tpu: bool,
    environment: Mapping[str, str],
    processes: int,
    message: str,
) -> None:
    installed(*names, tpu=tpu)
    with pytest.raises(UserError) as error:
        chosen(environment, processes)
    assert str(error.value) == message


def test_several_processes_on_a_tpu_that_were_told_of_each_other_go_on(installed: Installed) -> None:
    installed("torch_tpu", tpu=True)
    assert chosen(TOLD, 2) == "tpu"


def test_a_number_of_a_step_is_a_tensor_where_it_would_be_compiled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Processes(0, 1, torch.device("cpu"))
    assert alone.number(0.25) == 0.25 and not isinstance(alone.number(0.25), torch.Tensor)
    monkeypatch.setitem(DEVICES, "cpu", DEVICES["xla"])
    rate, iteration = alone.number(0.25), alone.number(7)
    assert isinstance(rate, torch.Tensor) and rate.shape == () and rate.dtype == torch.float32 and rate == 0.25
    assert isinstance(iteration, torch.Tensor) and iteration.dtype == torch.int64 and iteration == 7


def test_averages_take_a_tensor_as_they_take_a_number() -> None:
    start, later = {"w": torch.tensor([1.0, -2.0])}, {"w": torch.tensor([3.0, 4.0])}
    plain, tensors = EMAs(start, (0.9,)), EMAs(start, (0.9,))
    for update in (1, 2, 100):
        plain.update(later, update)
        tensors.update(later, update, torch.tensor)
    torch.testing.assert_close(plain.shadows, tensors.shadows)


def test_a_device_that_compiles_whole_steps_is_not_compiled_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[ModuleType] = []
    monkeypatch.setattr(torch, "compile", lambda module, **_: compiled.append(module) or module)
    config = TrainingConfig(iterations=1, batch_size=1, learning_rate=1.0, compile=True)
    network, alone = torch.nn.Linear(1, 1), Processes(0, 1, torch.device("cpu"))
    monkeypatch.setitem(DEVICES, "cpu", DEVICES["xla"])
    assert parallelize(network, config, alone) is network and not compiled
