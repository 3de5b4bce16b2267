"""What the training step's benchmark times: the product's own loop, and peers that do as much work."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks import breakdown, gpu, machine, synthetic, training
from benchmarks.harness import Options, Results
from benchmarks.peers import plain
from components.runner import read_params
from mcm.data.arrays import ImageSet
from mcm.data.stream import TrainingStream
from mcm.networks.presets import network_config, parameter_count
from mcm.networks.uvit import UViTConfig
from mcm.planning.flops import Passes, forward_flops, step_flops
from mcm.training.checkpoint import CheckpointFolder
from mcm.training.distributed import processes
from tests.chain.programs import ROOT

PARAMS: dict[str, Any] = {
    "data": {"resolution": 16},
    "network": {"preset": "uvit_tiny"},
    "schedule": {"noise_low": 8, "noise_high": 32},
    "teacher": {"batch_size": 4, "iterations": 50, "learning_rate": 1e-3, "emas": [0.9], "checkpoint_every": 2},
    "students": {
        "common": {"batch_size": 4, "iterations": 50, "learning_rate": 1e-3, "emas": [0.9]},
        "cd": {"teacher_steps": {"first": 16, "last": 16, "iterations": 0}},
    },
}


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    return synthetic.image_set(tmp_path / "data", 16, 24)


def paced(run: training.Run, folder: Path, steps: int) -> Iterator[training.Paced]:
    with processes() as group:
        made = training.Paced(run, group, folder, steps)
        yield made
        made.close()


@pytest.mark.parametrize("method", ["teacher", "cd"])
def test_paced_steps_are_the_steps_of_the_loop_to_the_bit(images: ImageSet, tmp_path: Path, method: str) -> None:
    def make() -> training.Run:
        return training.teacher(PARAMS, images) if method == "teacher" else training.student(PARAMS, method, images)

    run, whole = make(), make()
    for turn in paced(run, tmp_path / "paced", 2):  # takes one turn to begin with
        turn()
        turn()
    with processes() as group:
        whole.train(group, tmp_path / "whole", iterations=6)
    expected = dict(whole.denoiser.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in run.denoiser.named_parameters())


def test_a_paced_run_writes_checkpoints_as_it_goes(images: ImageSet, tmp_path: Path) -> None:
    for turn in paced(training.teacher(PARAMS, images), tmp_path, 3):
        turn()
    newest = CheckpointFolder(tmp_path / "checkpoints", "teacher", 2).newest()
    assert newest is not None
    assert newest.iteration == 6


def test_what_stops_the_loop_is_raised_where_the_turn_was_asked_for(images: ImageSet, tmp_path: Path) -> None:
    run = training.teacher(PARAMS, images, batch_size=25)
    with pytest.raises(Exception, match="fewer than a batch of 25"), processes() as group:
        training.Paced(run, group, tmp_path, 1)


def test_flops_of_a_student_count_the_passes_that_are_made(images: ImageSet) -> None:
    network = training.network_of(PARAMS, images)
    # N_seg = 16 / 4: of four images, one has s == t_step and needs no reference.
    expected = step_flops(network, Passes(1, 0)) + 1.75 * forward_flops(network)
    assert training.student(PARAMS, "cd", images).flops == expected


def test_the_plain_loop_has_our_loss_on_the_same_draws(images: ImageSet) -> None:
    run = training.teacher(PARAMS, images)
    schedule = training.schedule_of(PARAMS, images)
    torch.nn.init.normal_(run.denoiser.network.write.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    batch, draws = TrainingStream(images, 4, 0, mirror=False)[0]
    ours = run.method.loss(run.denoiser, batch, draws, 0).mean()
    logsnr = plain.log_snr(draws.time.float(), 16, schedule.noise_low, schedule.noise_high)
    theirs = plain.loss(run.denoiser.network, batch.images, draws.eps, logsnr, bf16=False)
    torch.testing.assert_close(theirs, ours.to(theirs), rtol=1e-4, atol=1e-5)


def test_the_plain_loop_learns(images: ImageSet) -> None:
    from mcm.data.arrays import to_float
    from mcm.networks.presets import build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(training.network_of(PARAMS, images))
        steps = plain.training(network, to_float(images.images), 8, (16, 16), "bf16", torch.device("cpu"))
        losses = [next(steps) for _ in range(60)]
    assert sum(losses[-15:]) < sum(losses[:15])


def test_diffusers_network_has_our_parameters_and_flops() -> None:
    pytest.importorskip("diffusers", reason="the peer comes with the extra 'bench'", exc_type=Exception)
    from benchmarks.peers import diffusers_unet

    params = read_params(ROOT / "params.yaml")
    resolution = params["data"]["resolution"]
    ours = network_config(params["network"]["preset"], resolution)
    assert isinstance(ours, UViTConfig)
    parameters, forward, step = diffusers_unet.counts(resolution)
    assert parameters / parameter_count(ours) == pytest.approx(1, abs=0.1)
    assert forward / forward_flops(ours) == pytest.approx(1, abs=0.1)
    assert step / step_flops(ours, Passes()) == pytest.approx(1, abs=0.1)
    images = torch.rand(4, 3, resolution, resolution)
    assert 0 < next(diffusers_unet.training(images, 2, "bf16", torch.device("cpu"))) < 10


def test_the_parts_of_a_step_are_its_whole_time(images: ImageSet, tmp_path: Path) -> None:
    with processes() as group:
        shares = breakdown.shares(training.teacher(PARAMS, images), group, tmp_path, 3)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(0 < share < 1 for share in shares.values())
    assert "in float32" in breakdown.note("float32", shares, 0.3)
    for kind in shares:
        assert kind in breakdown.picture({"float32": shares}).svg


def test_the_rows_of_a_gpu_are_those_of_its_largest_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = tmp_path / "tiny.yaml"
    preset.write_text(yaml.safe_dump({**PARAMS, "teacher": {**PARAMS["teacher"], "precision": "bf16"}}))
    for name, value in {"PRESET": preset, "LARGEST": 8, "PRODUCTS": 1, "COMPILED": (False,)}.items():
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(machine, "SHAPES", [(8, 8, 8)])
    found = Results([])
    with processes() as group:
        gpu.large_network(Options(quick=True), tmp_path, group, found)
    names = [figure.name for figure in found.figures]
    assert names == [f"{name}, tiny at 16 px, bf16, batch 8, eager: MFU" for name in ("teacher", "cd")]
