"""Methods and samplers on mixtures: the measures against known answers, and students to the bit."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.exact import stage
from components.exact.__main__ import main
from mcm.artifacts import folder_md5
from mcm.denoiser import Denoiser
from mcm.errors import UserError
from mcm.exact.stream import MixtureStream, keyed
from mcm.exact.teacher import MixtureSampler, sample_teacher, trajectories, x_var_table
from mcm.exact.truth import SCHEDULE, Truth, ends, rmse, truth, wasserstein
from mcm.methods.interface import Method
from mcm.methods.recipe import Recipe, Setting
from mcm.methods.recipes import RECIPES
from mcm.mixtures import mixture
from mcm.samplers import SamplerConfig, sample
from mcm.steps import norm_sq

RINGS, PICTURES = "rings-2d", "pictures-64d"


def normal(count: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Wasserstein-2


def test_wasserstein_of_shifted_and_shuffled_points_is_the_shift():
    points = normal(200, 3)
    assert wasserstein(points, points) == 0
    shift = torch.tensor([0.3, -0.4, 1.2], dtype=torch.float64)
    shuffled = points[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    assert wasserstein(points, shuffled) == 0
    assert wasserstein(points, shuffled + shift) == pytest.approx(1.3, rel=1e-12)


def test_wasserstein_on_a_line_pairs_points_in_order():
    a, b = normal(300, 1), 2 * normal(300, 1, seed=1) + 0.5
    in_order = (a.sort(dim=0).values - b.sort(dim=0).values).square().mean().sqrt().item()
    assert wasserstein(a, b) == pytest.approx(in_order, rel=1e-12)


def test_wasserstein_of_normals_is_that_of_their_formula_within_sampling_error():
    """`||m||^2 + sum (s_i - 1)^2` for normals along the axes, up to the floor that as many equal ones have."""
    scales, mean = torch.tensor([2.0, 0.5], dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    known = (1.0 + 1.0 + 0.25) ** 0.5
    a, b = normal(1000, 2), scales * normal(1000, 2, seed=1) + mean
    floor = wasserstein(a, normal(1000, 2, seed=2))
    assert abs(wasserstein(a, b) - known) < floor
    assert wasserstein(a[:100], b[:100]) >= 0 and floor < wasserstein(a[:100], normal(100, 2, seed=2))


def test_sets_of_unequal_size_have_no_assignment():
    with pytest.raises(UserError, match="give equal ones"):
        wasserstein(normal(3, 2), normal(4, 2))


# Truth


@pytest.fixture(scope="module")
def known() -> Truth:
    return truth(RINGS, 0, 400, 64)


def test_the_exact_map_has_no_error_the_datas_norm_and_the_floors_distance(known: Truth):
    figures = known.metrics(known.z_0)
    assert (figures["flow_rmse"], figures["norm_ratio"]) == (0, 1)
    assert 0.5 * known.w2_floor < figures["w2"] < 1.5 * known.w2_floor
    standard_error = norm_sq(known.z_0).std().item() / len(known.z_0) ** 0.5
    assert abs(figures["norm_sq"] - known.mixture.mean_norm_sq) < 4.5 * standard_error
    assert known.about["noise_floor_w2"] == known.w2_floor


def test_the_error_that_is_shown_for_the_map_is_more_than_its_own(known: Truth):
    few = slice(100)
    finer = known.mixture.flow(known.z_1[few], *ends(100), steps=256)
    assert rmse(known.z_0[few], finer) < known.flow_error < 0.01


def test_figures_tell_what_is_wrong_with_samples(known: Truth):
    figures = known.metrics(1.1 * known.z_0)
    assert figures["norm_ratio"] == pytest.approx(1 + 0.21 * figures["norm_sq"] / 1.21 / known.mixture.mean_norm_sq)
    assert figures["flow_rmse"] == pytest.approx(0.1 * rmse(known.z_0, torch.zeros_like(known.z_0)))
    with pytest.raises(UserError, match="not finite"):
        known.metrics(known.z_0 / 0)


def test_the_frechet_distance_knows_the_mixture_and_not_its_draws(known: Truth):
    mean, covariance = known.mixture.moments
    points = known.mixture.sample(200_000, keyed(3, 1))
    assert torch.allclose(points.mean(dim=0), mean, atol=0.01) and torch.allclose(points.T.cov(), covariance, atol=0.01)
    assert known.mixture.mean_norm_sq == pytest.approx((mean.square().sum() + covariance.trace()).item())
    assert known.frechet(points) < 1e-4 < known.about["noise_floor_frechet"] == known.frechet(known.data)
    shift = torch.tensor([0.6, -0.8])
    assert known.frechet(points + shift) == pytest.approx(1, abs=0.02)  # squared, as FID is
    assert known.frechet(known.data.flip(0)) == pytest.approx(known.frechet(known.data), rel=1e-9)


def test_truth_is_a_function_of_its_seed(known: Truth):
    truth.cache_clear()
    again, other = truth(RINGS, 0, 400, 64), truth(RINGS, 1, 400, 64)
    assert torch.equal(again.z_0, known.z_0) and torch.equal(again.data, known.data)
    assert not torch.equal(other.z_1, known.z_1) and not torch.equal(other.data, known.data)


# The closed-form teacher


def by(name: str, steps: int, where: Truth, x_var: str = "exact") -> torch.Tensor:
    sampler = MixtureSampler.parse({"name": name, "steps": steps, "x_var": x_var}, "sampler")
    return sample_teacher(where.mixture, sampler, where.z_1, 0, lambda: x_var_table(PICTURES, 0, 0.75, 64, 8))


def test_samplers_of_the_teacher_converge_to_the_flow(known: Truth):
    errors = {steps: rmse(by("ddim", steps, known), known.z_0) for steps in (4, 16, 64)}
    assert errors[16] < 0.6 * errors[4] and errors[64] < 0.8 * errors[16], errors
    assert rmse(by("heun", 64, known), known.z_0) < errors[64] / 2


def test_samplers_of_the_teacher_are_those_of_images(known: Truth):
    """`mcm.samplers.sample`, whose x_var is of a level alone."""
    table = x_var_table(RINGS, 0, 0.75, 64, 8)
    for name in ("ddim", "addim", "heun"):
        plain = SamplerConfig(name=name, steps=6, x_var="table", clip=False)
        expected = sample(known.mixture.posterior_mean, known.z_1.double(), plain.levels(SCHEDULE), plain, x_var=table)
        sampler = MixtureSampler.parse({"name": name, "steps": 6}, "sampler")
        torch.testing.assert_close(sample_teacher(known.mixture, sampler, known.z_1, 0, lambda: table), expected)


def test_samplers_that_draw_noise_are_functions_of_the_seed(known: Truth):
    sampler = MixtureSampler.parse({"name": "ddpm", "steps": 4}, "sampler")
    first, again, other = (sample_teacher(known.mixture, sampler, known.z_1, seed, dict) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_addim_with_the_exact_variance_restores_the_norm_that_ddim_loses():
    """In 64 dimensions. In one step it is E||x||^2 in expectation; in more, aDDIM comes nearer to it than DDIM."""
    where = truth(PICTURES, 0, 300, 16)
    one_step = norm_sq(by("addim", 1, where))
    standard_error = one_step.std().item() / len(one_step) ** 0.5
    assert abs(one_step.mean().item() - where.mixture.mean_norm_sq) < 4.5 * standard_error
    for steps in (1, 4, 16):
        plain, adjusted = (where.metrics(by(name, steps, where))["norm_ratio"] for name in ("ddim", "addim"))
        assert plain < 0.95 and abs(adjusted - 1) < 0.4 * (1 - plain), (steps, plain, adjusted)


def test_the_measured_variance_is_that_fraction_of_the_posteriors():
    table = x_var_table(PICTURES, 0, 0.75, 400, 2)
    assert table.x_var[1] == pytest.approx(0.75 * posterior_variance_at_noise(), abs=4.5 * table.standard_error[1])


def posterior_variance_at_noise() -> float:
    one, _ = ends(1)
    points = mixture(PICTURES)
    return points.posterior_variance(torch.zeros(1, 64), one).item() / 64


def test_ways_end_where_the_sampler_does_and_begin_at_the_noise(known: Truth):
    z_1 = known.z_1[:5]
    times, ways = trajectories(known.mixture.posterior_mean, 3, z_1, 4)
    assert times.shape == (13,) and ways.shape == (13, 5, 2)
    assert times[0] == 1 and times[-1] == pytest.approx(0) and (np.diff(times) < 0).all()
    sampler = SamplerConfig(name="ddim", steps=3, clip=False)
    z_0 = sample(known.mixture.posterior_mean, z_1, sampler.levels(SCHEDULE), sampler)
    np.testing.assert_allclose(ways[-1], z_0, atol=1e-4)
    assert (ways[0] == z_1.numpy()).all()


# Batches


def test_a_batch_is_a_function_of_seed_and_iteration():
    stream = MixtureStream(mixture(RINGS), 16, seed=3)
    whole, part = list(stream(0, 4)), list(stream(2, 4))
    later = list(MixtureStream(mixture(RINGS), 16, seed=3, begin=2)(0, 2))
    for (batch, draws), *others in zip(whole[2:], part, later, strict=True):
        for same, same_draws in others:
            assert torch.equal(batch.images, same.images) and torch.equal(draws.eps, same_draws.eps)
            assert torch.equal(draws.time, same_draws.time)
    seen = torch.cat([batch.images for batch, _ in whole])
    assert len(seen.unique(dim=0)) == len(seen)
    other, _ = next(iter(MixtureStream(mixture(RINGS), 16, seed=4)(0, 1)))
    assert not torch.equal(other.images, whole[0][0].images)
    assert keyed(0, 1).initial_seed() != keyed(0, 2).initial_seed()


# Students


def tiny() -> dict[str, Any]:
    training = {"iterations": 12, "batch_size": 16, "learning_rate": 1e-3, "emas": [0.9, 0.5], "checkpoint_every": 2}
    return {
        "exact": {
            "mixture": RINGS,
            "network": {"width": 8, "blocks": 1, "embedding": 8},
            "start": training,
            "evaluation": {"samples": 50, "flow_steps": 8, "x_var_points": 8, "points": 20, "trajectories": 4},
        },
        "students": {
            "common": {**training, "seed": 1},
            "cd": {"teacher_steps": {"first": 8, "last": 8, "iterations": 0}},
            "ct": {"teacher_steps": {"first": 8, "last": 8, "iterations": 0}},
            "ctm": {"teacher_steps": {"first": 8, "last": 8, "iterations": 0}},
            "pd": {"first_steps": 8},
        },
    }


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exact")
    stage.make_start(tiny(), folder / "start", folder / "work")
    return folder / "start"


@pytest.mark.parametrize("method", sorted(RECIPES))
def test_every_method_makes_a_student_that_can_be_measured(method: str, start: Path, tmp_path: Path):
    params = tiny()
    params["students"]["common"]["checkpoint_every"] = 100
    try:
        stage.make_student(params, method, 1, start, tmp_path / "student", tmp_path / "work")
    except UserError as error:
        assert "has no classes" in str(error) and method == "gd"
        return
    assert not list((tmp_path / "work").rglob("*.safetensors"))  # checkpoints and phases are gone
    stage.measure(params, tmp_path / "student", None, tmp_path / "measured")
    made = json.loads((tmp_path / "measured" / "metrics.json").read_text())
    assert (made["row"], made["nfe"]) == ("ddim-1", 1)
    assert tuple(made["metrics"]) == Truth.METRICS
    assert np.load(tmp_path / "measured" / "points.npy").shape == (20, 2)
    assert np.load(tmp_path / "measured" / "trajectories.npy").shape == (33, 4, 2)


def kill_at(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """End the loop before `iteration` as a kill would, from within its loader."""
    original = MixtureStream.__call__

    def dying(stream: MixtureStream, start: int, stop: int) -> Iterator[Any]:
        for at, item in enumerate(original(stream, start, stop), stream.begin + start):
            if at == iteration:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(MixtureStream, "__call__", dying)


@pytest.mark.parametrize("method", ["start", "cd", "pd"])
def test_killed_and_begun_again_the_bits_are_the_same(
    method: str, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def make(name: str, work: str, seed: int = 1) -> Path:
        params = tiny()
        if method == "start":
            params["exact"]["start"] |= {"seed": seed}
            stage.make_start(params, tmp_path / name, tmp_path / work)
        else:
            params["students"]["common"] |= {"seed": seed}
            stage.make_student(params, method, 2, start, tmp_path / name, tmp_path / work)
        return tmp_path / name

    whole = folder_md5(make("whole", "one"))
    for iteration in (3, 9):  # of progressive distillation's two phases, one in each
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            kill_at(patch, iteration)
            make("resumed", "two")
        assert not (tmp_path / "resumed").exists()
    assert list((tmp_path / "two").rglob("*.safetensors"))
    assert folder_md5(make("resumed", "two")) == whole
    assert folder_md5(make("other", "three", seed=2)) != whole


def test_the_first_phase_asks_the_formula_and_later_ones_what_the_phase_before_has_made(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Setting] = []
    made = RECIPES["pd"].make

    def noting(recipe: Recipe, setting: Setting) -> Method:
        asked.append(setting)
        return made(recipe, setting)

    monkeypatch.setattr(RECIPES["pd"], "make", noting)
    stage.make_student(tiny(), "pd", 2, start, tmp_path / "student", tmp_path / "work")
    first, second = asked
    assert first.teacher == mixture(RINGS).posterior_mean and first.before is None
    assert isinstance(second.teacher, Denoiser) and second.before == first.phase
    assert (first.phase.student_steps, second.phase.student_steps) == (4, 2)
    assert first.phase.iterations + second.phase.iterations == 12


def test_what_is_measured_is_a_function_of_parameters(tmp_path: Path):
    for name in ("one", "two"):
        truth.cache_clear()
        stage.measure(tiny(), None, {"name": "ddpm", "steps": 2}, tmp_path / name)
    assert folder_md5(tmp_path / "one") == folder_md5(tmp_path / "two")
    params = tiny()
    params["exact"]["evaluation"]["seed"] = 5
    stage.measure(params, None, {"name": "ddpm", "steps": 2}, tmp_path / "other")
    assert folder_md5(tmp_path / "other") != folder_md5(tmp_path / "one")


def test_identities_hold_what_a_job_reads_and_nothing_else():
    params, other = tiny(), tiny()
    other["exact"]["evaluation"]["seed"] = 7
    other["students"]["cd-2"] = {"iterations": 99}
    assert stage.start_identity(params) == stage.start_identity(other)
    assert stage.student_identity(params, "cd", 1) == stage.student_identity(other, "cd", 1)
    assert stage.student_identity(params, "cd", 2) != stage.student_identity(other, "cd", 2)
    assert stage.measure_identity(params, None) != stage.measure_identity(other, None)
    assert stage.measure_identity(params, None) != stage.measure_identity(params, {"name": "ddim", "steps": 1})


def test_a_measurement_that_lacks_a_figure_is_another_one(monkeypatch: pytest.MonkeyPatch):
    before = stage.measure_identity(tiny(), None)
    monkeypatch.setattr(Truth, "METRICS", (*Truth.METRICS, "another"))
    assert stage.measure_identity(tiny(), None) != before


def test_bad_input_is_one_line(start: Path, tmp_path: Path):
    def with_mixture(name: str) -> dict[str, Any]:
        params = copy.deepcopy(tiny())
        params["exact"]["mixture"] = name
        return params

    with pytest.raises(UserError, match="did you mean 'rings-2d'"):
        stage.make_start(with_mixture("ring-2d"), tmp_path / "out", tmp_path / "work")
    with pytest.raises(UserError, match="not a network for points of 'pictures-64d'"):
        stage.make_student(with_mixture(PICTURES), "cd", 1, start, tmp_path / "out", tmp_path / "work")
    with pytest.raises(UserError, match="name a student"):
        stage.measure(tiny(), start, None, tmp_path / "out")
    with pytest.raises(UserError, match="did you mean 'addim'"):
        stage.measure(tiny(), None, {"name": "adim", "steps": 4}, tmp_path / "out")
    with pytest.raises(UserError, match="clip"):
        stage.measure(tiny(), None, {"name": "ddim", "steps": 4, "clip": True}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_program_does_what_the_functions_do(tmp_path: Path):
    params = tmp_path / "params.yaml"
    params.write_text(json.dumps(tiny()))
    here = ["--params", str(params), "--out"]
    main(["start", *here, str(tmp_path / "start"), "--work", str(tmp_path / "work")])
    student = ["student", "--method", "cd", "--student-steps", "2", "--start", str(tmp_path / "start")]
    main([*student, *here, str(tmp_path / "cd-2"), "--work", str(tmp_path / "work")])
    main(["measure", "--student", str(tmp_path / "cd-2"), *here, str(tmp_path / "measured")])
    main(["measure", "--sampler", "addim", "--steps", "2", *here, str(tmp_path / "sampler")])
    stage.measure(tiny(), tmp_path / "cd-2", None, tmp_path / "again")
    assert folder_md5(tmp_path / "measured") == folder_md5(tmp_path / "again")


@pytest.mark.slow
def test_students_of_the_exact_teacher_beat_what_they_start_from_at_their_steps(tmp_path: Path):
    """On the line of Figure 1: the error to the exact map is below half of that of DDIM, and least at 4 steps."""
    params = tiny()
    training = {"batch_size": 128, "learning_rate": 2e-3, "warmup": 10, "decay": 0.7, "checkpoint_every": 1000}
    params["exact"] |= {"mixture": "line-1d", "network": {"width": 32, "blocks": 2, "embedding": 32}}
    params["exact"]["start"] = {**training, "iterations": 600, "emas": [0.99]}
    params["exact"]["evaluation"] |= {"samples": 300, "flow_steps": 64}
    steps = {"teacher_steps": {"first": 64, "last": 64, "iterations": 0}}
    params["students"]["common"] = {**training, "iterations": 300, "emas": [0.98]}
    params["students"]["cd"] = {**steps, "x_var_frac": 0.0, "distance": "squared"}
    stage.make_start(params, tmp_path / "start", tmp_path / "work")

    def error(student: Path | None, sampler: dict[str, Any] | None, name: str) -> float:
        stage.measure(params, student, sampler, tmp_path / name)
        return json.loads((tmp_path / name / "metrics.json").read_text())["metrics"]["flow_rmse"]

    errors = []
    for count in (1, 2, 4):
        student = tmp_path / f"cd-{count}"
        stage.make_student(params, "cd", count, tmp_path / "start", student, tmp_path / "work")
        errors.append(error(student, None, f"measured-{count}"))
        assert errors[-1] < error(None, {"name": "ddim", "steps": count}, f"ddim-{count}") / 2
    # So short a training does not order 1 and 2 steps; tests/test_mixture.py trains until it does (property 6).
    assert errors[-1] < min(errors[:-1]), errors
