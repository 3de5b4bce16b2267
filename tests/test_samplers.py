"""Samplers: per-image seeds, evaluations, orders of accuracy and exactness on a Gaussian, guidance."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mcm.errors import UserError
from mcm.samplers import SAMPLERS, SamplerConfig, generate, initial_noise, labels_for, sample, step_noise
from mcm.schedules import NoiseLevel, cosine
from mcm.steps import per_image
from mcm.variance import analytic_x_var

MEAN, STD = 0.3, 0.4
SHAPE = (3, 4, 4)


def gaussian_mean(z_t: Tensor, t: NoiseLevel, labels: Tensor | None = None, seeds: Tensor | None = None) -> Tensor:
    """E[x | z_t] for x ~ N(MEAN, STD^2): the exact denoiser."""
    variance = t.alpha.square() * STD**2 + t.sigma.square()
    return MEAN + per_image(t.alpha * STD**2 / variance, z_t) * (z_t - per_image(t.alpha * MEAN, z_t))


def gaussian_variance(t: NoiseLevel) -> Tensor:
    return STD**2 * t.sigma.square() / (t.alpha.square() * STD**2 + t.sigma.square())


def by_class(z_t: Tensor, t: NoiseLevel, labels: Tensor, seeds: Tensor | None = None) -> Tensor:
    """Another mean for every class, something non-linear, nothing that mixes images."""
    return torch.tanh(gaussian_mean(z_t, t) + 0.1 * labels.to(z_t).view(-1, 1, 1, 1) * z_t)


@pytest.mark.parametrize("grid", ["uniform", "karras"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_image_k_does_not_depend_on_the_batch_size(name, grid):
    sampler = SamplerConfig(name=name, steps=5, grid=grid, guidance=0.5)

    def images(size):
        batches = list(generate(by_class, sampler, cosine(), 7, 16, SHAPE, 3, size, x_var=analytic_x_var))
        assert [len(batch) for batch in batches] == [min(size, 16 - start) for start in range(0, 16, size)]
        return np.concatenate(batches)

    whole = images(16)
    assert whole.shape == (16, 4, 4, 3) and whole.dtype == np.uint8
    for size in (1, 3):
        np.testing.assert_array_equal(images(size), whole)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_processes_together_make_the_batches_of_one(world_size):
    sampler, size = SamplerConfig(name="noise_ddim", steps=3), 4

    def batches(**share):
        return list(generate(by_class, sampler, cosine(), 7, 14, SHAPE, 3, size, x_var=analytic_x_var, **share))

    whole = batches()
    shares = [batches(rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sum(map(len, shares)) == len(whole)
    for k, batch in enumerate(whole):
        assert torch.equal(shares[k % world_size][k // world_size], batch)


@pytest.mark.parametrize("count", [1, 4, 9])
def test_equal_batches_are_cut_to_the_same_images(count):
    """A predictor that is compiled for one shape sees one, and nobody sees the images that fill the last batch."""
    seen = set()

    def predict(z_t, t, labels, seeds=None):
        seen.add((len(z_t), len(t.alpha), len(labels)))
        return by_class(z_t, t, labels)

    sampler = SamplerConfig(name="ddpm", steps=3)
    plain = list(generate(by_class, sampler, cosine(), 7, count, SHAPE, 3, 4))
    equal = list(generate(predict, sampler, cosine(), 7, count, SHAPE, 3, 4, equal_batches=True))
    assert seen == {(4, 4, 4)}
    assert [len(batch) for batch in equal] == [len(batch) for batch in plain]
    assert (torch.cat(equal).int() - torch.cat(plain).int()).abs().max() <= 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_is_the_same_to_rounding_alone_or_among_others(name):
    sampler = SamplerConfig(name=name, steps=6)
    levels = sampler.levels(cosine())

    def at(indices):
        z_1 = initial_noise(3, indices, SHAPE)
        labels = labels_for(indices, 4)
        return sample(
            by_class, z_1, levels, sampler, labels, 4, analytic_x_var, lambda i: step_noise(3, indices, i, SHAPE)
        )

    whole = at(range(16))
    for k in (0, 5, 15):
        torch.testing.assert_close(at([k])[0], whole[k], atol=1e-6, rtol=0)


@pytest.mark.parametrize("grid", ["uniform", "karras"])
def test_every_sampler_starts_from_the_same_noise(grid):
    seen = {}

    def spy(name):
        def predict(z_t, t, labels, seeds=None):
            seen.setdefault(name, z_t.clone())
            return torch.zeros_like(z_t)

        return predict

    for name in SAMPLERS:
        sampler = SamplerConfig(name=name, steps=3, grid=grid)
        list(generate(spy(name), sampler, cosine(), 11, 4, SHAPE, 0, 4, x_var=analytic_x_var))
    for name in SAMPLERS:
        assert torch.equal(seen[name], initial_noise(11, range(4), SHAPE)), name


def test_noise_differs_between_seeds_images_steps_and_uses_and_is_normal():
    draws = [
        initial_noise(0, [0], (1000,)),
        initial_noise(0, [1], (1000,)),
        initial_noise(1, [0], (1000,)),
        step_noise(0, [0], 0, (1000,)),
        step_noise(0, [0], 1, (1000,)),
        step_noise(0, [1], 0, (1000,)),
    ]
    correlation = torch.corrcoef(torch.cat(draws))
    assert (correlation - torch.eye(len(draws))).abs().max() < 0.15
    many = initial_noise(5, range(50), (1000,))
    assert abs(float(many.mean())) < 0.02 and abs(float(many.std()) - 1) < 0.02


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("name", SAMPLERS)
def test_nfe_is_what_is_counted(name, steps):
    calls = []

    def counting(z_t, t, labels, seeds=None):
        calls.append(len(z_t))
        return gaussian_mean(z_t, t)

    sampler = SamplerConfig(name=name, steps=steps)
    list(generate(counting, sampler, cosine(), 0, 2, SHAPE, 0, 2, x_var=analytic_x_var))
    assert len(calls) == sampler.nfe
    assert sampler.nfe == (2 * steps - 1 if name == "heun" else steps)


def ode_error(name: str, steps: int) -> float:
    """Largest distance from the probability-flow ODE of a Gaussian, which maps z_1 to MEAN + STD z_1."""
    sampler = SamplerConfig(name=name, steps=steps, clip=False)
    z_1 = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    x = sample(gaussian_mean, z_1, sampler.levels(cosine()), sampler)
    return float((x - (MEAN + STD * z_1)).abs().max())


@pytest.mark.parametrize("name, order", [("ddim", 1), ("heun", 2)])
def test_order_of_accuracy(name, order):
    errors = [ode_error(name, steps) for steps in (64, 128, 256)]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


def test_heun_beats_ddim_at_equal_evaluations():
    assert ode_error("heun", 16) < ode_error("ddim", 31) / 2


def gaussian_std(name: str, steps: int) -> float:
    """Standard deviation of 25600 sampled values; its own sampling error is STD / sqrt(2 * 25600) = 0.0018."""
    count, dimensions = 100, 256
    sampler = SamplerConfig(name=name, steps=steps, clip=False)
    x = sample(
        gaussian_mean,
        initial_noise(0, range(count), (dimensions,)).double(),
        sampler.levels(cosine()),
        sampler,
        x_var=gaussian_variance,
        draw=lambda i: step_noise(0, range(count), i, (dimensions,)).double(),
    )
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.02)
    return float(x.std())


def test_ddpm_reaches_the_variance_of_the_data_as_steps_grow():
    errors = [abs(gaussian_std("ddpm", steps) - STD) for steps in (16, 64, 256)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.01


def test_noise_ddim_with_the_true_posterior_variance_is_exact_for_a_gaussian_in_any_number_of_steps():
    for steps in (1, 2, 5):
        assert gaussian_std("noise_ddim", steps) == pytest.approx(STD, abs=0.007)
    assert abs(gaussian_std("ddim", 2) - STD) > 0.05


def test_addim_reads_x_var_at_t_and_without_it_is_ddim():
    z_1, read = initial_noise(0, range(4), SHAPE), []

    def none(t):
        read.append(t)
        return torch.zeros(len(t.alpha), dtype=torch.float64)

    addim, ddim = SamplerConfig(name="addim", steps=4), SamplerConfig(name="ddim", steps=4)
    levels = ddim.levels(cosine())
    plain = sample(gaussian_mean, z_1, levels, ddim)
    assert torch.equal(sample(gaussian_mean, z_1, levels, addim, x_var=none), plain)
    assert torch.equal(torch.cat([t.alpha for t in read]), levels.alpha[:-1])
    inflated = sample(gaussian_mean, z_1, levels, addim, x_var=analytic_x_var)
    assert float((inflated - MEAN).norm()) > 1.02 * float((plain - MEAN).norm())


def flow_to_data(z_t: Tensor, t: NoiseLevel, labels: Tensor | None = None, seeds: Tensor | None = None) -> Tensor:
    """The exact consistency function for x ~ N(MEAN, STD^2): where the probability flow from z_t at t ends."""
    std = (t.alpha.square() * STD**2 + t.sigma.square()).sqrt()
    return MEAN + per_image(STD / std, z_t) * (z_t - per_image(t.alpha * MEAN, z_t))


def test_consistency_sampling_is_written_out_and_with_one_step_is_ddim():
    """Algorithm 1 of Song et al. 2023, with levels that preserve variance."""
    z_1 = initial_noise(0, range(4), SHAPE)
    draws = [step_noise(0, range(4), i, SHAPE) for i in range(3)]
    sampler = SamplerConfig(name="consistency", steps=3, clip=False)
    levels = sampler.levels(cosine())
    found = sample(gaussian_mean, z_1, levels, sampler, draw=draws.__getitem__)
    x = gaussian_mean(z_1, levels.at(torch.zeros(4, dtype=torch.int64)))
    for i in (1, 2):
        noised = float(levels.alpha[i]) * x + float(levels.sigma[i]) * draws[i - 1]
        x = gaussian_mean(noised, levels.at(torch.full((4,), i)))
    torch.testing.assert_close(found, x, atol=1e-6, rtol=1e-5)
    one, ddim = (SamplerConfig(name=name, steps=1, clip=False) for name in ("consistency", "ddim"))
    levels = one.levels(cosine())
    torch.testing.assert_close(sample(gaussian_mean, z_1, levels, one), sample(gaussian_mean, z_1, levels, ddim))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_consistency_sampling_of_an_exact_consistency_model_has_the_datas_law(steps):
    sampler = SamplerConfig(name="consistency", steps=steps, clip=False)
    many = (64, 64)
    x = sample(
        flow_to_data,
        initial_noise(0, range(50), many),
        sampler.levels(cosine()),
        sampler,
        draw=lambda i: step_noise(0, range(50), i, many),
    )
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.004) and float(x.std()) == pytest.approx(STD, abs=0.004)


def test_which_samplers_are_for_which_students():
    consistency, addim = (SamplerConfig(name=name, steps=2) for name in ("consistency", "addim"))
    consistency.check_student(1, reads_end=False)
    consistency.check_student(4, reads_end=True)
    with pytest.raises(UserError, match="consistency asks for the data at once, and this student has 4 steps to it"):
        consistency.check_student(4, reads_end=False)
    with pytest.raises(UserError, match="addim reads the teacher's x_var; sample students by ddim"):
        addim.check_student(1, reads_end=True)


def test_guidance_zero_is_the_conditional_model_and_guidance_moves_away_from_the_null_label():
    seen = []

    def predict(z_t, t, labels, seeds=None):
        seen.append(labels.tolist())
        return labels.to(z_t).view(-1, 1, 1, 1).expand_as(z_t) / 10

    z_1 = initial_noise(0, range(3), SHAPE)
    levels = SamplerConfig(steps=1).levels(cosine())
    labels = labels_for(range(3), 3)
    plain = sample(predict, z_1, levels, SamplerConfig(steps=1), labels, 3)
    assert seen == [[0, 1, 2]]
    torch.testing.assert_close(plain[:, 0, 0, 0], torch.tensor([0.0, 0.1, 0.2]))
    guided = sample(predict, z_1, levels, SamplerConfig(steps=1, guidance=2.0), labels, 3)
    assert seen[1:] == [[0, 1, 2, 3, 3, 3]]  # one evaluation of twice the images
    # x_cond + 2 (x_cond - 0.3)
    torch.testing.assert_close(guided[:, 0, 0, 0], torch.tensor([-0.6, -0.3, 0.0]))


def told_ends(name: str, guidance: float = 0.0) -> list[tuple[float, float]]:
    """(logsnr at t, logsnr where the step ends) of each evaluation of a predictor that reads ends."""
    seen = []

    def predict(z_t, t, labels, seeds, end):
        assert seeds is None and len(end.logsnr) == len(z_t) == len(labels)
        assert (t.logsnr == t.logsnr[0]).all() and (end.logsnr == end.logsnr[0]).all()
        seen.append((t.logsnr[0].item(), end.logsnr[0].item()))
        return 0.1 * z_t

    predict.reads_end = True
    sampler = SamplerConfig(name=name, steps=3, guidance=guidance)
    list(generate(predict, sampler, cosine(), 0, 4, SHAPE, 3, 4, x_var=analytic_x_var))
    return seen


@pytest.mark.parametrize("guidance", [0.0, 0.5])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_predictor_that_reads_ends_is_told_where_each_step_goes(name, guidance):
    levels = SamplerConfig(steps=3).levels(cosine()).logsnr.tolist()
    steps = list(itertools.pairwise(levels))
    if name == "heun":  # its second evaluation is made where the step ends
        steps = [steps[0], (levels[1], levels[1]), steps[1], (levels[2], levels[2]), steps[2]]
    if name == "consistency":  # each prediction goes to the data
        steps = [(start, levels[-1]) for start in levels[:-1]]
    assert told_ends(name, guidance) == steps


def test_clip_holds_predictions_to_the_range_of_images():
    def wild(z_t, t, labels, seeds=None):
        return torch.full_like(z_t, 5.0)

    z_1 = initial_noise(0, [0], SHAPE)
    for clip, value in ((True, 1.0), (False, 5.0)):
        sampler = SamplerConfig(steps=2, clip=clip)
        torch.testing.assert_close(
            sample(wild, z_1, sampler.levels(cosine()), sampler), torch.full_like(z_1, value), atol=1e-5, rtol=0
        )


def test_labels_come_in_turn():
    assert labels_for(range(5), 3).tolist() == [0, 1, 2, 0, 1]
    assert labels_for([7], 3).tolist() == [1]
    assert labels_for(range(5), 0) is None


def test_karras_grid_starts_at_sigma_max_and_ends_at_data():
    levels = SamplerConfig(name="heun", steps=4, grid="karras").levels(cosine())
    assert len(levels.alpha) == 5
    assert float(levels.sigma[0] / levels.alpha[0]) == pytest.approx(80)
    assert float(levels.sigma[-1]) == 0 and float(levels.alpha[-1]) == 1


def test_rows_tell_samplers_apart():
    assert SamplerConfig(name="addim", steps=64, x_var="table").row == "addim-64"
    assert SamplerConfig(name="addim", steps=64).row == "addim-64-analytic"
    assert SamplerConfig(name="ddim", steps=8).row == "ddim-8"
    assert SamplerConfig(name="heun", steps=8, grid="karras").row == "heun-15-karras"
    assert SamplerConfig(steps=8, guidance=0.5, clip=False).row == "ddim-8-guidance0.5"


def test_bad_input_is_one_line_that_helps():
    with pytest.raises(UserError, match="did you mean 'addim'"):
        SamplerConfig.parse({"name": "adim", "steps": 4}, "here")
    with pytest.raises(UserError, match="steps"):
        SamplerConfig.parse({"steps": 0}, "here")
    z_1, levels = initial_noise(0, [0], SHAPE), SamplerConfig(steps=1).levels(cosine())
    with pytest.raises(UserError, match="guidance needs a model with classes"):
        sample(gaussian_mean, z_1, levels, SamplerConfig(steps=1, guidance=1.0))
    with pytest.raises(UserError, match="x_var"):
        sample(gaussian_mean, z_1, levels, SamplerConfig(name="addim", steps=1))


def test_an_image_that_is_not_finite_is_named():
    def broken(z_t, t, labels, seeds=None):
        x_hat = torch.zeros_like(z_t)
        x_hat[labels == 2] = torch.nan
        return x_hat

    batches = generate(broken, SamplerConfig(steps=2), cosine(), 9, 8, SHAPE, 7, 2)
    assert len(next(batches)) == 2
    with pytest.raises(UserError, match="seed 9: image 2 is not finite"):
        next(batches)
