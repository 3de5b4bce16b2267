"""CM and iCT: grids, schedules, draws, weights, targets; losses against EDM's own equations and an exact flow."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import create_model
from scipy import stats
from torch import Tensor, nn

from mcm.denoiser import Denoiser
from mcm.errors import UserError
from mcm.methods import edm
from mcm.methods.average import Average
from mcm.methods.consistency_models import (
    ConsistencyModel,
    ConsistencyModelDistillation,
    ConsistencyModelTraining,
    DoublingLevels,
    GrowingLevels,
    ImprovedConsistencyTraining,
    ImprovedTraining,
    SolverStep,
)
from mcm.methods.edm import LogNormal, karras_sigmas, level
from mcm.methods.interface import Batch, Draws, FollowsEMAs
from mcm.methods.recipe import Phase, Setting
from mcm.mixtures import GaussianMixture
from mcm.networks.mlp import MLPConfig
from mcm.networks.presets import build
from mcm.schedules import NoiseLevel, cosine
from mcm.training.checkpoint import CheckpointFolder
from mcm.training.config import TrainingConfig
from mcm.training.distributed import Processes
from mcm.training.loop import train

BATCH, D = 64, 5
Student = Callable[..., Tensor]


def make_draws(batch: int = BATCH, seed: int = 0, time: Tensor | None = None) -> Draws:
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(3, batch, generator=generator, dtype=torch.float64)
    eps = torch.randn(batch, D, generator=generator, dtype=torch.float64)
    return Draws(eps, u[0], u[1] if time is None else time, u[2], torch.arange(batch))


@pytest.fixture
def batch() -> Batch:
    x = torch.randn(BATCH, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return Batch(0.5 * x, None)


def network(z: Tensor, logsnr: Tensor) -> Tensor:
    """Some smooth v."""
    return torch.sin(2 * z) + 0.1 * z * logsnr.to(z)[:, None]


def denoise(z_t: Tensor, t: NoiseLevel, labels: Tensor | None = None, dropout_seeds: Tensor | None = None) -> Tensor:
    """`mcm.denoiser.Denoiser` of `network`, in float64."""
    alpha, sigma = t.alpha[:, None], t.sigma[:, None]
    return alpha * z_t - sigma * network(z_t, t.logsnr.clamp(-20, 20))


def edm_denoise(x: Tensor, sigma: float, eps: Tensor) -> Tensor:
    """The same in EDM's terms: `c_skip x + c_out F(c_in x, logsnr)`, one image, sigma_data = 1; pure noise from 80."""
    if sigma >= 80:
        return -network(eps[None], torch.tensor([-20.0], dtype=torch.float64))[0]
    c_skip, c_out, c_in = 1 / (1 + sigma**2), -sigma / math.sqrt(1 + sigma**2), 1 / math.sqrt(1 + sigma**2)
    logsnr = -2 * math.log(sigma) if sigma > math.exp(-10) else 20.0
    return c_skip * x + c_out * network((c_in * x)[None], torch.tensor([logsnr], dtype=torch.float64))[0]


METHODS: dict[str, Callable[[], ConsistencyModel | ImprovedConsistencyTraining]] = {
    "cm": lambda: ConsistencyModel(lambda k: 7),
    "cm of a teacher, heun": lambda: ConsistencyModel(lambda k: 7, SolverStep(half_teacher, "heun")),
    "cm of a teacher, ddim": lambda: ConsistencyModel(lambda k: 7, SolverStep(half_teacher, "ddim")),
    "ict": lambda: ImprovedConsistencyTraining(lambda k: 7, LogNormal(), 0.00054),
}


def half_teacher(z_t: Tensor, t: NoiseLevel, labels: Tensor | None = None) -> Tensor:
    return 0.5 * z_t


# Grids and schedules


@pytest.mark.parametrize("count", [2, 3, 18, 1281])
def test_grid_is_karras_between_data_and_noise(count: int) -> None:
    sigmas = karras_sigmas(count)
    rho = 1 / 7
    inside = [(0.002**rho + i / (count - 1) * (80**rho - 0.002**rho)) ** 7 for i in range(1, count - 1)]
    assert sigmas.tolist() == pytest.approx([0.0, *inside, 80.0], rel=1e-12)
    assert (sigmas.diff() > 0).all()
    levels = level(sigmas)
    assert (levels.alpha[0], levels.sigma[0], levels.logsnr[0]) == (1, 0, math.inf)
    assert (levels.alpha[-1], levels.sigma[-1], levels.logsnr[-1]) == (0, 1, -math.inf)
    torch.testing.assert_close((levels.sigma / levels.alpha)[:-1], sigmas[:-1])
    assert all(a == b for a, b in zip(level(sigmas[-1:]), cosine()(torch.ones(1)), strict=True)), "t = 1 of Alg. 2"


def test_levels_of_cm_grow_from_s0_to_one_more_than_s1_evenly_in_the_square() -> None:
    levels = GrowingLevels(2, 150, 800_000)
    assert (levels(0), levels(799_999), levels(800_000)) == (2, 151, 151)
    counts = [levels(k) for k in range(0, 800_001, 1000)]
    assert counts == sorted(counts)
    assert levels(400_000) == math.ceil(math.sqrt((151**2 + 2**2) / 2) - 1) + 1


def test_levels_of_ict_double_at_the_stated_iterations_and_stay() -> None:
    levels = DoublingLevels(10, 1280, 400_000)
    assert levels.every == 50_000
    for stage in range(8):
        expected = 10 * 2**stage + 1
        assert (levels(stage * 50_000), levels((stage + 1) * 50_000 - 1)) == (expected, expected)
    assert levels(10**9) == 1281
    assert [DoublingLevels(10, 50, 30)(k) for k in (0, 8, 9, 17, 18, 27, 100)] == [11, 11, 21, 21, 41, 51, 51]
    assert DoublingLevels(10, 1280, 3)(2) == 41, "fewer iterations than stages: as far as they reach"


# Draws


@pytest.mark.parametrize("count", [2, 11, 1281])
def test_intervals_have_the_probabilities_of_the_paper(count: int) -> None:
    """Exactly, at u in the middle of every 4000th; scipy's normal distribution, tails at the ends."""
    sigmas = karras_sigmas(count)
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    found = torch.bincount(LogNormal().interval(u, sigmas), minlength=count - 1) / 4000
    below = stats.norm(-1.1, 2.0).cdf(np.log(sigmas[1:-1].numpy()))
    expected = np.diff([0.0, *below, 1.0])
    np.testing.assert_allclose(found.numpy(), expected, atol=1 / 4000)
    assert len(found) == count - 1


def test_intervals_are_lognormal_by_chi_square() -> None:
    sigmas, count = karras_sigmas(11), 20_000
    u = torch.rand(count, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = torch.bincount(LogNormal().interval(u, sigmas), minlength=10)
    erf = torch.erf((sigmas[1:-1].log() + 1.1) / (math.sqrt(2) * 2.0))
    shares = torch.cat([torch.tensor([-1.0]), erf, torch.tensor([1.0])]).diff() / 2
    assert stats.chisquare(found.numpy(), (shares / shares.sum() * count).numpy()).pvalue > 1e-3


def test_the_last_level_is_met_however_fine_the_grid() -> None:
    u = torch.tensor([0.0, 0.9969, 0.99695, 1 - 2**-53], dtype=torch.float64)
    assert LogNormal().interval(u, karras_sigmas(1281)).tolist() == [0, 1278, 1279, 1279]


def test_pairs_of_cm_are_neighbours_and_as_likely_as_another(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spy(monkeypatch)
    u = (torch.arange(BATCH, dtype=torch.float64) + 0.5) / BATCH
    ConsistencyModel(lambda k: 9).loss(denoise, batch, make_draws(time=u), 0)
    sigmas = karras_sigmas(9)
    n = torch.bucketize(seen.s, sigmas)
    assert torch.equal(sigmas[n], seen.s) and torch.equal(sigmas[n + 1], seen.t)
    assert torch.bincount(n).tolist() == [BATCH // 8] * 8


def spy(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The sigmas that a loss compares."""
    seen, x_difference = SimpleNamespace(), edm.x_difference

    def watched(student: Student, batch: Batch, draws: Draws, t: Tensor, s: Tensor, *rest: Any) -> Tensor:
        seen.t, seen.s = t, s
        return x_difference(student, batch, draws, t, s, *rest)

    monkeypatch.setattr("mcm.methods.consistency_models.x_difference", watched)
    return seen


# Losses


@pytest.mark.parametrize("name", METHODS)
def test_loss_is_the_papers_in_edms_own_terms_image_by_image(
    name: str, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second implementation, in scalars, on `x + sigma eps` with c_skip, c_out and c_in."""
    u = (torch.arange(BATCH, dtype=torch.float64) / (BATCH - 1)).clamp(max=1 - 1e-12)
    draws, seen = make_draws(time=u), spy(monkeypatch)
    found = METHODS[name]().loss(denoise, batch, draws, 0)
    assert {0.0, 80.0} <= {*seen.s.tolist(), *seen.t.tolist()}, "both ends are among them"
    for i in range(BATCH):
        x, eps, t, s = batch.images[i], draws.eps[i], seen.t[i].item(), seen.s[i].item()
        x_t, x_s = x + t * eps, x + s * eps
        if "teacher" in name:
            x_s = edm_step(x_t, t, s, eps, "heun" in name)
        x_diff = edm_denoise(x_t, t, eps) - (edm_denoise(x_s, s, eps) if s > 0 else x_s)
        expected = x_diff.square().sum() / D
        if name == "ict":
            c = 0.00054 * math.sqrt(D)
            expected = ((x_diff.square().sum() + c**2).sqrt() - c) / (t - s)
        assert found[i].item() == pytest.approx(expected.item(), rel=1e-9), f"sigma {t} to {s}"


def edm_step(x_t: Tensor, t: float, s: float, eps: Tensor, heun: bool) -> Tensor:
    """Euler's step of `dx/dsigma = (x - D(x, sigma)) / sigma`, and Heun's; from pure noise, where x = sigma eps."""

    def teacher(x: Tensor, sigma: float) -> Tensor:
        return 0.5 * x / math.sqrt(1 + sigma**2)  # half_teacher on z = c_in x

    if t >= 80:  # as sigma goes to infinity: eps_hat = eps and x_hat is the teacher's of z = eps
        x_hat = 0.5 * eps
        euler = x_hat + s * eps
        return (x_hat + teacher(euler, s)) / 2 + s * eps if heun and s > 0 else euler
    slope = (x_t - teacher(x_t, t)) / t
    euler = x_t + (s - t) * slope
    if not heun or s == 0:
        return euler
    return x_t + (s - t) * (slope + (euler - teacher(euler, s)) / s) / 2


@pytest.mark.parametrize("name", METHODS)
def test_at_the_datas_end_the_target_is_no_networks(name: str, batch: Batch) -> None:
    """u = 0 is the first pair: the target is x, or where the teacher lands; what the student says there is not read."""
    draws = make_draws(time=torch.zeros(BATCH, dtype=torch.float64))
    expected = loss_and_gradient(METHODS[name](), batch, draws, 0.0)
    broken = loss_and_gradient(METHODS[name](), batch, draws, math.nan)
    assert expected[0].isfinite().all()
    assert torch.equal(expected[0], broken[0]) and torch.equal(expected[1], broken[1])
    if name == "cm":
        t = level(karras_sigmas(7)[1].expand(BATCH))
        z_t = t.alpha[:, None] * batch.images + t.sigma[:, None] * draws.eps
        torch.testing.assert_close(expected[0], (denoise(z_t, t) - batch.images).square().mean(dim=1))


def loss_and_gradient(
    method: ConsistencyModel | ImprovedConsistencyTraining, batch: Batch, draws: Draws, at_data: float
) -> tuple[Tensor, Tensor]:
    """With a student that adds `at_data` to its answers to targets at s = 0."""
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    def student(z: Tensor, t: NoiseLevel, labels: Tensor | None, seeds: Tensor) -> Tensor:
        wrong = torch.where((t.sigma == 0)[:, None], at_data, 0.0)
        return weight * denoise(z, t) + wrong

    loss = method.loss(student, batch, draws, 0)
    return loss, torch.autograd.grad(loss.mean(), weight)[0]


@pytest.mark.parametrize("name", METHODS)
def test_gradient_is_of_the_later_prediction_alone_and_dropout_is_the_same(name: str, batch: Batch) -> None:
    calls = []
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    def student(z: Tensor, t: NoiseLevel, labels: Tensor | None, seeds: Tensor) -> Tensor:
        calls.append((torch.is_grad_enabled(), seeds.tolist(), t.sigma))
        return weight * denoise(z, t)

    loss = METHODS[name]().loss(student, batch, make_draws(), 0)
    assert loss.requires_grad
    (target_graph, target_seeds, s), (graph, seeds, t) = calls
    assert (target_graph, graph) == (False, True)
    assert target_seeds == seeds == list(range(BATCH))
    assert (s < t).all()


def test_weights_of_ict_are_one_over_the_gap(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, draws = spy(monkeypatch), make_draws()
    ict = ImprovedConsistencyTraining(lambda k: 21, LogNormal(), 0.0)
    constant = torch.arange(BATCH, dtype=torch.float64)

    def student(z: Tensor, t: NoiseLevel, labels: Tensor | None, seeds: Tensor) -> Tensor:
        return torch.zeros_like(z) + (constant[:, None] if torch.is_grad_enabled() else 0.0)

    loss = ict.loss(student, Batch(torch.zeros_like(batch.images), None), draws, 0)
    torch.testing.assert_close(loss, constant * math.sqrt(D) / (seen.t - seen.s))


def test_huber_is_the_norm_far_out_a_square_near_and_finite_where_nothing_differs() -> None:
    far, near = torch.full((1, D), 3.0, dtype=torch.float64), torch.full((1, D), 1e-5, dtype=torch.float64)
    assert edm.pseudo_huber(far, 0.01).item() == pytest.approx(3 * math.sqrt(D) - 0.01, rel=1e-5)
    assert edm.pseudo_huber(near, 1.0).item() == pytest.approx(D * 1e-10 / 2, rel=1e-3)
    for c in (0.0, 0.01):
        same = torch.zeros(1, D, requires_grad=True)
        edm.pseudo_huber(same, c).sum().backward()
        assert same.grad is not None and not same.grad.any()


# Exact consistency


def exact_student(mean: Tensor, std: float) -> Student:
    """The flow of one Gaussian to its data: `x = mean + (z_t - alpha mean) std / sqrt(alpha^2 std^2 + sigma^2)`."""

    def student(z: Tensor, t: NoiseLevel, labels: Tensor | None = None, seeds: Tensor | None = None) -> Tensor:
        spread = (t.alpha.square() * std**2 + t.sigma.square()).sqrt()
        return mean + (z - t.alpha[:, None] * mean) * (std / spread)[:, None]

    return student


@pytest.mark.parametrize(("teach", "order"), [(None, 2), ("ddim", 4), ("heun", 6)])
def test_an_exact_flow_has_no_loss_as_levels_grow(teach: str | None, order: int) -> None:
    """Falling as it must: the square of the gap (training), of a first-order and of a second-order solver's error."""
    mean, std, count = torch.linspace(-1, 1, D, dtype=torch.float64), 0.5, 4000
    gaussian = GaussianMixture(torch.ones(1), mean[None], torch.tensor([std]))
    x = gaussian.sample(count, torch.Generator().manual_seed(1))
    # Between the ends, which do not come nearer: 0 and 0.002, 80 and pure noise.
    u = 0.2 + 0.5 * (torch.arange(count, dtype=torch.float64) + 0.5) / count
    draws = make_draws(count, time=u)

    def loss(levels: int) -> float:
        step = SolverStep(gaussian.posterior_mean, teach) if teach else None
        return (
            ConsistencyModel(lambda k: levels, step)
            .loss(exact_student(mean, std), Batch(x, None), draws, 0)
            .mean()
            .item()
        )

    assert math.log2(loss(161) / loss(321)) == pytest.approx(order, abs=0.25)
    assert loss(321) < 1e-4


def test_the_ends_of_the_grid_cost_an_exact_flow_almost_nothing() -> None:
    mean, std = torch.linspace(-1, 1, D, dtype=torch.float64), 0.5
    gaussian = GaussianMixture(torch.ones(1), mean[None], torch.tensor([std]))
    x = gaussian.sample(BATCH, torch.Generator().manual_seed(1))
    distilled = ConsistencyModel(lambda k: 1281, SolverStep(gaussian.posterior_mean, "heun"))
    for u in (0.0, 1 - 1e-12):
        draws = make_draws(time=torch.full((BATCH,), u, dtype=torch.float64))
        assert distilled.loss(exact_student(mean, std), Batch(x, None), draws, 0).max() < 1e-6


# The target network


def mlp(seed: int) -> Denoiser:
    torch.manual_seed(seed)
    made = Denoiser(build(MLPConfig(dimensions=D, width=16, blocks=1, embedding=16)))
    nn.init.normal_(dict(made.named_parameters())["network.write.weight"])
    return made


class Wrapped(nn.Module):
    """As DistributedDataParallel has it: the network is `module`, and its parameters have longer names."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any) -> Any:
        return self.module(*inputs)


@pytest.mark.parametrize("wrap", [lambda network: network, Wrapped], ids=["alone", "wrapped"])
def test_target_network_is_the_named_ema(batch: Batch, wrap: Callable[[nn.Module], nn.Module]) -> None:
    student, other = mlp(0), mlp(1)
    batch, draws = Batch(batch.images.float(), None), replace(make_draws(), eps=make_draws().eps.float())
    shadow = {name: value.detach() for name, value in other.named_parameters()}
    method = ConsistencyModel(lambda k: 7, target_ema=Average("target_ema", 0.95))
    assert isinstance(method, FollowsEMAs)
    method.follow({"ema_0.9999": {}, "ema_0.95": shadow})
    sigmas, n = karras_sigmas(7), (draws.time * 6).long()
    expected = edm.x_difference(student, batch, draws, sigmas[n + 1], sigmas[n], target=other).square().mean(dim=1)
    loss = method.loss(wrap(student), batch, draws, 0)
    torch.testing.assert_close(loss, expected)
    loss.mean().backward()
    assert all(value.grad is None for value in other.parameters())
    assert any(value.grad is not None for value in student.parameters())
    with torch.no_grad():  # as the loop does after each step
        shadow["network.write.weight"].zero_()
    assert not torch.equal(method.loss(wrap(student), batch, draws, 0), expected)


def test_a_killed_run_with_a_target_network_ends_with_the_same_bits(tmp_path: Path, batch: Batch) -> None:
    """The target is an EMA that checkpoints hold, so that nothing else is to be kept."""
    config = TrainingConfig(
        iterations=8, batch_size=BATCH, learning_rate=1e-3, emas=(0.4, 0.1), log_every=4, checkpoint_every=4
    )

    def run(folder: Path, target_ema: float | None, kill: int | None = None) -> dict[str, Tensor]:
        def batches(start: int, stop: int) -> Iterator[tuple[Batch, Draws]]:
            for iteration in range(start, stop):
                if iteration == kill:
                    raise InterruptedError
                draws = make_draws(seed=iteration)
                yield Batch(batch.images.float(), None), replace(draws, eps=draws.eps.float())

        method = ConsistencyModelTraining(target_ema=target_ema).make(Setting(cosine(), Phase(1, config.iterations)))
        checkpoints = CheckpointFolder(folder, "fingerprint", 2)
        alone = Processes(0, 1, torch.device("cpu"))
        return train("test", mlp(0), method, batches, config, checkpoints, alone).weights

    whole = run(tmp_path / "whole", 0.4)
    with pytest.raises(InterruptedError):
        run(tmp_path / "killed", 0.4, kill=6)
    resumed = run(tmp_path / "killed", 0.4)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    others = [run(tmp_path / str(decay), decay) for decay in (0.1, None)]
    assert all(any(not torch.equal(whole[name], other[name]) for name in whole) for other in others)


def test_target_network_that_is_not_kept_is_an_error() -> None:
    with pytest.raises(UserError, match=r"target_ema is 0.95, and emas are 0.9999; add 0.95 to emas"):
        ConsistencyModel(lambda k: 7, target_ema=Average("target_ema", 0.95)).follow({"ema_0.9999": {}})
    ConsistencyModel(lambda k: 7).follow({})


@pytest.mark.parametrize("recipe", [ConsistencyModelTraining, ConsistencyModelDistillation])
def test_target_network_that_cannot_be_trained_is_an_error_before_training(recipe: type[edm.OneStep]) -> None:
    student = create_model("Student", __base__=(recipe, TrainingConfig))
    values: dict[str, Any] = {"iterations": 10, "batch_size": 2, "learning_rate": 1e-3, "emas": (0.999, 0.95)}
    student(**values, target_ema=0.95).check(1)
    student(**values, parallel="fsdp").check(1)
    with pytest.raises(UserError, match=r"target_ema is 0\.9, and emas are 0\.999, 0\.95; add 0\.9 to emas"):
        student(**values, target_ema=0.9).check(1)
    with pytest.raises(UserError, match="target_ema asks for an EMA of whole weights, and fsdp keeps parts"):
        student(**values, target_ema=0.95, parallel="fsdp").check(1)


# Recipes

RECIPES = (ConsistencyModelTraining, ConsistencyModelDistillation, ImprovedTraining)


@pytest.mark.parametrize("recipe", RECIPES)
def test_students_take_one_step(recipe: type[edm.OneStep]) -> None:
    recipe().check(1)
    with pytest.raises(UserError, match=r"student_steps is 2.* set it to 1, or use cd or ct"):
        recipe().check(2)


@pytest.mark.parametrize("recipe", [ConsistencyModelTraining, ImprovedTraining])
def test_levels_that_fall_are_an_error(recipe: type[ConsistencyModelTraining] | type[ImprovedTraining]) -> None:
    with pytest.raises(UserError, match="s0 is 20 and s1 is 10"):
        recipe(s0=20, s1=10).check(1)


def test_recipes_make_what_their_papers_state() -> None:
    setting = Setting(cosine(), Phase(1, 800), half_teacher)
    trained = ConsistencyModelTraining().make(setting)
    assert (trained.levels, trained.teach, trained.target_ema) == (GrowingLevels(2, 150, 800), None, None)
    distilled = ConsistencyModelDistillation(target_ema=0.95).make(setting)
    assert (distilled.levels(5), distilled.teach) == (18, SolverStep(half_teacher, "heun"))
    assert distilled.target_ema == Average("target_ema", 0.95)
    improved = ImprovedTraining().make(setting)
    assert improved == ImprovedConsistencyTraining(DoublingLevels(10, 1280, 800), LogNormal(), 0.00054)
