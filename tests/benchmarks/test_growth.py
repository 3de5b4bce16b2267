"""The case `growth` says of made-up growth what it is, and counts on real networks what grows."""

from pathlib import Path

import pytest

from benchmarks.cases import _data_growth as sets
from benchmarks.cases._network_growth import Memory, Size, Step, _kept, axes
from benchmarks.cases.growth import network_figures
from benchmarks.harness import Timings
from mcm.data.arrays import ImageSet
from mcm.networks.presets import PRESETS
from mcm.networks.uvit import UViTConfig

TINY = PRESETS["uvit_tiny"]
assert isinstance(TINY, UViTConfig)
SIZES = [Size(images, TINY, images) for images in (1, 4, 16)]


def timings(power: float, fixed: float = 0.0) -> Timings:
    return Timings({str(size.units): [fixed + size.flops**power] * 3 for size in SIZES})


def memories(power: float) -> list[Memory]:
    return [Memory(1000, 100 * size.units, int(1000 + 100 * size.units**power)) for size in SIZES]


def reached(taken: Timings, memory: list[Memory]) -> list[bool | None]:
    return [figure.reached for figure in network_figures("images a batch", SIZES, taken, memory)]


def test_growth_as_the_work_reaches_every_aim() -> None:
    assert reached(timings(1.0), memories(1.0)) == [True, True, True]


def test_time_and_memory_that_outgrow_the_work_are_seen() -> None:
    assert reached(timings(1.3), memories(1.0)) == [False, True, True]
    assert reached(timings(1.0), memories(1.6)) == [True, False, True]


def test_a_slow_small_size_hides_nothing() -> None:
    """A fixed cost makes the smallest the worst per FLOP; the largest is held against the best of the others."""
    taken = timings(1.0)
    taken.seconds["1"] = [1000 * second for second in taken.seconds["1"]]
    taken.seconds["16"] = [1.5 * second for second in taken.seconds["16"]]
    assert reached(taken, memories(1.0))[0] is False


@pytest.mark.slow
def test_the_work_of_each_axis_grows() -> None:
    for axis, sizes in axes(quick=True).items():
        flops = [size.flops for size in sizes]
        assert flops == sorted(flops), axis
        assert flops[-1] / flops[0] > 5, axis
        assert len({size.units for size in sizes}) == len(sizes), axis


def test_what_is_kept_for_the_backward_pass_grows_as_the_batch() -> None:
    assert isinstance(TINY, UViTConfig)
    few, many = (_kept(Step(Size(images, TINY, images))) for images in (8, 64))
    assert 0.9 * 8 < many / few <= 8


def test_a_step_trains() -> None:
    step = Step(SIZES[1])
    before = float(step.loss().detach())
    for _ in range(8):
        step()
    assert float(step.loss().detach()) < before


def test_a_made_set_is_one_that_training_reads(tmp_path: Path) -> None:
    sets.make_set(tmp_path, 70)
    images = ImageSet.open(tmp_path / "70")
    assert len(images) == 70
    assert images.images.max() == 0


def test_folders_of_pictures_share_their_files(tmp_path: Path) -> None:
    sets.write_pictures(tmp_path, [2, 5])
    assert [len(list((tmp_path / name).iterdir())) for name in ("2", "5")] == [2, 5]
    assert all((tmp_path / "5" / path.name).samefile(path) for path in (tmp_path / "2").iterdir())


@pytest.mark.slow
def test_evaluation_holds_no_more_of_more_samples(tmp_path: Path) -> None:
    sets.make_set(tmp_path, 20_000)
    assert sets.features_memory(tmp_path, 20_000) < 20_000 * sets.FEATURE_BYTES // 2
