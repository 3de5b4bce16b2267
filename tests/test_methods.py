"""Algorithm 1 and diffusion training: times, targets, losses (properties 4, 5 and 7 of the method)."""

import math
from dataclasses import replace

import pytest
import torch

import mcm.networks.dropout
from mcm.denoiser import Denoiser, guided
from mcm.methods.consistency import Consistency, TeacherSteps, draw_times, segments
from mcm.methods.diffusion import Diffusion
from mcm.methods.interface import Batch, Draws, drop_labels, uniform_integer
from mcm.methods.losses import DISTANCES, multiscale, pseudo_huber, squared, v_difference, weighted_norm
from mcm.networks.presets import build, network_config
from mcm.schedules import cosine, interpolated
from mcm.steps import addim, noise, norm_sq

SCHEDULE = interpolated(16, 8, 16)
BATCH = 32
NULL = 10


def make_draws(batch: int = BATCH, seed: int = 0) -> Draws:
    generator = torch.Generator().manual_seed(seed)
    segment, time, label = torch.rand(3, batch, generator=generator, dtype=torch.float64)
    seeds = torch.randint(2**31, (batch,), generator=generator)
    return Draws(torch.randn(batch, 3, 16, 16, generator=generator), segment, time, label, seeds)


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(9)
    return Batch(torch.rand(BATCH, 3, 16, 16, generator=generator) * 2 - 1, torch.arange(BATCH) % 10)


@pytest.fixture
def student() -> Denoiser:
    """A tiny UViT with dropout, away from its zero initialisation."""
    torch.manual_seed(0)
    network = build(network_config("uvit_tiny", num_classes=NULL, dropout=0.5))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return Denoiser(network)


def method(student_steps: int, teacher_steps: int, **options) -> Consistency:
    return Consistency(SCHEDULE, student_steps, TeacherSteps(teacher_steps, teacher_steps, 0), **options)


def half_teacher(z_t, t, labels=None, dropout_seeds=None):
    return 0.5 * z_t


# Times


def test_teacher_steps_are_annealed_log_linearly_and_then_constant():
    steps = TeacherSteps()
    values = [steps(i) for i in (0, 50_000, 100_000, 200_000)]
    assert values == pytest.approx([64, math.sqrt(64 * 1280), 1280, 1280])
    assert TeacherSteps(256, 256, 0)(0) == pytest.approx(256)


@pytest.mark.parametrize(
    ("student_steps", "teacher_steps", "expected"), [(8, 64, 8), (1, 64, 64), (3, 64, 21), (16, 4, 1), (5, 12.6, 3)]
)
def test_segments_are_rounded_and_at_least_one(student_steps, teacher_steps, expected):
    assert segments(student_steps, teacher_steps) == expected


@pytest.mark.parametrize(("student_steps", "teacher_steps"), [(1, 64), (4, 64), (3, 17), (8, 2)])
def test_times_stay_on_the_integer_grid_of_their_segment(student_steps, teacher_steps):
    times = draw_times(make_draws(5000), student_steps, teacher_steps)
    per_segment = segments(student_steps, teacher_steps)
    assert times.total == student_steps * per_segment
    assert times.t_index.dtype == times.step_index.dtype == torch.int64
    assert (times.step_index % per_segment == 0).all()
    n_rel = times.t_index - times.step_index
    assert (n_rel.min(), n_rel.max()) == (1, per_segment)
    assert (times.step_index.min(), times.t_index.max()) == (0, times.total)
    assert torch.equal(times.at_step, n_rel == 1)


def test_times_cover_the_grid_uniformly():
    """Counts of all T grid times: multinomial, each within 5 standard deviations."""
    count, student_steps, teacher_steps = 120_000, 4, 24
    times = draw_times(make_draws_of_times(count), student_steps, teacher_steps)
    counts = torch.bincount(times.t_index, minlength=times.total + 1)
    share = 1 / times.total
    assert counts[0] == 0
    assert (counts[1:] / count - share).abs().max() < 5 * math.sqrt(share * (1 - share) / count)


def make_draws_of_times(count: int) -> Draws:
    """Draws whose noise is of no interest."""
    segment, time = torch.rand(2, count, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return Draws(torch.empty(count, 0), segment, time, time, torch.zeros(count, dtype=torch.long))


def test_uniform_integer_reaches_both_ends_and_no_further():
    u = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert uniform_integer(u, 7).tolist() == [0, 6]
    assert uniform_integer(torch.tensor([1.0]), 7).tolist() == [6]


# Algorithm 1


def test_loss_is_algorithm_1_written_out_image_by_image(batch):
    """A second implementation, in scalars: distillation, 4 student steps of 3 teacher steps."""
    draws = make_draws()
    consistency = method(4, 12, teacher=half_teacher, huber_epsilon=0.1)
    found = consistency.loss(lambda z, t, labels, seeds: 0.3 * z, batch, draws, 0)
    for i in range(BATCH):
        x, eps = batch.images[i].double(), draws.eps[i].double()
        step, n_rel = int(draws.segment[i] * 4), 1 + int(draws.time[i] * 3)
        indices = (3 * step + n_rel, 3 * step + n_rel - 1, 3 * step)
        t, s, t_step = (SCHEDULE(torch.tensor([k / 12], dtype=torch.float64)) for k in indices)
        z_t = t.alpha * x + t.sigma * eps
        x_teacher = 0.5 * z_t
        x_var = 0.75 * (x_teacher - x).square().mean()
        eps_hat = (z_t - t.alpha * x_teacher) / t.sigma
        z_var = (s.alpha - t.alpha * s.sigma / t.sigma) ** 2 * x_var
        z_s = s.alpha * x_teacher + (s.sigma**2 + z_var * x.numel() / eps_hat.square().sum()).sqrt() * eps_hat
        z_ref = z_s
        if n_rel > 1:
            x_ref = 0.3 * z_s
            z_ref = t_step.alpha * x_ref + t_step.sigma / s.sigma * (z_s - s.alpha * x_ref)
        ratio = t_step.sigma / t.sigma
        x_diff = (z_ref - ratio * z_t) / (t_step.alpha - t.alpha * ratio) - 0.3 * z_t
        expected = ((x_diff / t.sigma).square().sum() + 0.1**2).sqrt() - 0.1
        assert found[i].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("teacher", [None, half_teacher])
def test_property_4_reference_at_the_segments_end_does_not_see_the_student(teacher, batch):
    """Where the student is asked there, because shapes are fixed; it is not asked otherwise."""
    draws = make_draws()
    consistency = method(4, 12, teacher=teacher, fixed_shapes=True)
    at_step = draw_times(draws, 4, 12).at_step
    assert 0 < at_step.sum() < BATCH

    def loss_and_gradient(broken: float | None):
        weight = torch.tensor(0.3, requires_grad=True)

        def student(z, t, labels, seeds):
            x_hat = weight * z
            if broken is not None and not torch.is_grad_enabled():  # the reference, at s
                x_hat[at_step] = broken
            return x_hat

        loss = consistency.loss(student, batch, draws, 0)
        return loss, torch.autograd.grad(loss.mean(), weight)[0]

    expected = loss_and_gradient(None)
    for broken in (math.nan, math.inf):
        loss, gradient = loss_and_gradient(broken)
        assert loss.isfinite().all()
        assert torch.equal(loss, expected[0])
        assert torch.equal(gradient, expected[1])


@pytest.mark.parametrize("teacher", [None, half_teacher])
def test_the_reference_is_asked_for_only_where_it_is_read(teacher, batch):
    draws = make_draws()
    asked = []

    def student(z, t, labels, seeds):
        asked.append((len(z), labels, seeds))
        return 0.3 * z

    all_rows, read_rows = (
        method(4, 12, teacher=teacher, fixed_shapes=fixed).loss(student, batch, draws, 0) for fixed in (True, False)
    )
    torch.testing.assert_close(read_rows, all_rows, rtol=1e-5, atol=1e-7)
    read = ~draw_times(draws, 4, 12).at_step
    assert [count for count, _, _ in asked] == [BATCH, BATCH, int(read.sum()), BATCH]
    assert torch.equal(asked[2][1], batch.labels[read])
    assert torch.equal(asked[2][2], draws.dropout_seeds[read])


@pytest.mark.parametrize(("student_steps", "references"), [(4, 1), (12, 0)])
def test_every_process_asks_for_the_reference_equally_often(student_steps, references, batch):
    """Once, also where a process happens to need none of it; never, where no image of any batch can need it."""
    draws = replace(make_draws(), time=torch.zeros(BATCH, dtype=torch.float64))
    assert draw_times(draws, student_steps, 12).at_step.all()
    asked = []

    def student(z, t, labels, seeds):
        asked.append(len(z))
        return torch.full_like(z, math.nan) if not torch.is_grad_enabled() else 0.3 * z

    loss = method(student_steps, 12).loss(student, batch, draws, 0)
    assert loss.isfinite().all()
    assert asked == [1] * references + [BATCH]


@pytest.mark.parametrize("steps", [1, 8, 64])
def test_property_5_training_with_as_many_student_as_teacher_steps_is_diffusion(steps, batch):
    draws = make_draws()
    times = draw_times(draws, steps, steps)
    same_times = Draws(draws.eps, draws.segment, times.t_index / times.total, draws.label, draws.dropout_seeds)

    def losses(weight):
        def student(z, t, labels, seeds):
            return weight * z

        ct = method(steps, steps, distance="squared").loss(student, batch, draws, 0)
        return ct, Diffusion(SCHEDULE).loss(student, batch, same_times, 0)

    weight = torch.tensor(0.3, requires_grad=True)
    ct, diffusion = losses(weight)
    torch.testing.assert_close(ct, diffusion, rtol=1e-4, atol=1e-6)
    gradients = [torch.autograd.grad(loss.mean(), weight)[0] for loss in (ct, diffusion)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def capture_masks(monkeypatch) -> list[torch.Tensor]:
    """Every dropout mask that is drawn from here on."""
    masks = []
    draw = mcm.networks.dropout.keep_mask

    def keep_mask(*arguments):
        masks.append(draw(*arguments))
        return masks[-1]

    monkeypatch.setattr(mcm.networks.dropout, "keep_mask", keep_mask)
    return masks


@pytest.mark.parametrize("synchronized", [True, False])
def test_property_7_both_evaluations_of_the_student_drop_the_same_units(synchronized, student, batch, monkeypatch):
    masks = capture_masks(monkeypatch)
    method(2, 8, synchronized_dropout=synchronized, fixed_shapes=True).loss(student, batch, make_draws(), 0)
    at_s, at_t = masks[: len(masks) // 2], masks[len(masks) // 2 :]
    assert len(at_s) == len(at_t) > 0
    per_image = [(a == b).flatten(1).double().mean(dim=1) for a, b in zip(at_s, at_t, strict=True)]
    if synchronized:
        assert all((share == 1).all() for share in per_image)
    else:  # independent masks of rate 0.5 agree on half of the units
        assert all((share < 0.75).all() for share in per_image)


def test_teacher_is_evaluated_without_dropout_and_without_graph(student, batch, monkeypatch):
    masks = capture_masks(monkeypatch)
    t, s = SCHEDULE(torch.full((BATCH,), 0.5)), SCHEDULE(torch.full((BATCH,), 0.4))
    z_s = method(2, 8, teacher=student).teach(batch, batch.images, t, s)
    assert masks == []
    assert not z_s.requires_grad


def test_gradient_flows_through_the_prediction_at_t_alone(batch):
    calls = []

    def student(z, t, labels, seeds):
        calls.append(torch.is_grad_enabled())
        return z

    method(2, 8, teacher=half_teacher).loss(student, batch, make_draws(), 0)
    assert calls == [False, True]


class CountingTeacher:
    """A teacher that predicts 0.5 z for a class and 0.1 z for the null class, and remembers who asked."""

    def __init__(self):
        self.conditional = self.unconditional = 0

    def __call__(self, z_t, t, labels=None, dropout_seeds=None):
        null = labels == NULL
        self.conditional += int((~null).sum())
        self.unconditional += int(null.sum())
        return torch.where(null[:, None, None, None], 0.1, 0.5) * z_t


def test_guided_teacher_takes_x_var_from_its_conditional_prediction(batch):
    t, s = SCHEDULE(torch.full((BATCH,), 0.5)), SCHEDULE(torch.full((BATCH,), 0.4))
    z_t = noise(batch.images, make_draws().eps, t)
    z_s = method(2, 8, teacher=CountingTeacher(), guidance=2.0, null_label=NULL).teach(batch, z_t, t, s)
    x_var = 0.75 * norm_sq(0.5 * z_t - batch.images) / z_t[0].numel()
    torch.testing.assert_close(z_s, addim((0.5 + 2 * 0.4) * z_t, z_t, t, s, x_var))


@pytest.mark.parametrize(("guidance", "unconditional"), [(0.0, 0), (2.0, BATCH)])
def test_teacher_is_asked_once_with_the_class_and_once_without(guidance, unconditional, batch):
    teacher = CountingTeacher()
    method(2, 8, teacher=teacher, guidance=guidance, null_label=NULL).loss(
        lambda z, t, labels, seeds: z, batch, make_draws(), 0
    )
    assert (teacher.conditional, teacher.unconditional) == (BATCH, unconditional)


def test_guidance_extrapolates_from_the_unconditional_prediction():
    z = torch.ones(2, 3, 4, 4)
    labels = torch.tensor([1, 2])
    t = cosine()(torch.full((2,), 0.5))
    assert torch.equal(guided(CountingTeacher(), 0.5, NULL)(z, t, labels), (0.5 + 0.5 * (0.5 - 0.1)) * z)
    teacher = CountingTeacher()
    assert guided(teacher, 0.0, NULL) is teacher


def test_training_without_a_teacher_steps_along_the_true_image(batch):
    t, s = SCHEDULE(torch.full((BATCH,), 0.5)), SCHEDULE(torch.full((BATCH,), 0.4))
    eps = make_draws().eps
    z_s = method(2, 8).teach(batch, noise(batch.images, eps, t), t, s)
    torch.testing.assert_close(z_s, noise(batch.images, eps, s), atol=1e-5, rtol=0)


def test_student_that_knows_the_image_has_no_training_loss(batch):
    def oracle(z, t, labels, seeds):
        return batch.images

    loss = method(4, 64, distance="squared", fixed_shapes=True).loss(oracle, batch, make_draws(), 0)
    assert loss.max() < 1e-6


# Diffusion training


def test_diffusion_loss_is_the_mean_square_of_v(batch):
    draws = make_draws()
    t = SCHEDULE(draws.time)
    alpha, sigma = t.alpha.view(-1, 1, 1, 1), t.sigma.view(-1, 1, 1, 1)
    z_t = alpha * batch.images + sigma * draws.eps
    v, x_hat = alpha * draws.eps - sigma * batch.images, 0.3 * z_t
    v_hat = (alpha * z_t - x_hat) / sigma
    found = Diffusion(SCHEDULE).loss(lambda z, t, labels, seeds: 0.3 * z, batch, draws, 0)
    torch.testing.assert_close(found.double(), (v - v_hat).square().mean(dim=(1, 2, 3)), rtol=1e-4, atol=0)


def test_diffusion_at_time_zero_stays_finite(batch):
    draws = make_draws()
    at_zero = Draws(draws.eps, draws.segment, torch.zeros(BATCH).double(), draws.label, draws.dropout_seeds)
    loss = Diffusion(SCHEDULE).loss(lambda z, t, labels, seeds: z, batch, at_zero, 0)
    assert loss.isfinite().all()


def test_labels_are_dropped_at_the_stated_rate_and_only_in_training_the_teacher(batch):
    u = torch.rand(50_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(50_000) % 10
    dropped = drop_labels(labels, u, 0.1, NULL)
    assert torch.equal(dropped[dropped != NULL], labels[dropped != NULL])
    assert abs((dropped == NULL).double().mean().item() - 0.1) < 5 * math.sqrt(0.1 * 0.9 / 50_000)
    assert drop_labels(None, u, 0.1, NULL) is None
    seen = []
    Diffusion(SCHEDULE, label_dropout=1.0, null_label=NULL).loss(
        lambda z, t, labels, seeds: seen.append(labels) or z, batch, make_draws(), 0
    )
    assert (seen[0] == NULL).all()


# Distances


@pytest.fixture
def difference() -> tuple[torch.Tensor, object]:
    x_diff = torch.randn(BATCH, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    return x_diff, cosine()(torch.linspace(0.05, 1, BATCH))


def test_v_difference_is_x_difference_by_the_root_of_snr_plus_one(difference):
    x_diff, t = difference
    weight = (t.snr + 1).sqrt().float().view(-1, 1, 1, 1)
    torch.testing.assert_close(v_difference(x_diff, t), weight * x_diff)


def test_huber_with_small_epsilon_is_the_norm(difference):
    x_diff, t = difference
    norm = v_difference(x_diff, t).flatten(1).norm(dim=1)
    torch.testing.assert_close(pseudo_huber(x_diff, t, 1e-4), norm, atol=2e-4, rtol=0)


def test_huber_with_large_epsilon_is_a_scaled_square(difference):
    x_diff, t = (difference[0].double(), difference[1])
    square = norm_sq(v_difference(x_diff, t))
    torch.testing.assert_close(pseudo_huber(x_diff, t, 1e4), square / 2e4, rtol=1e-4, atol=0)


def test_squared_is_per_dimension_and_weighted_norm_is_the_literal_reading(difference):
    x_diff, t = difference
    torch.testing.assert_close(squared(x_diff, t, 0.0), ((t.snr + 1) * norm_sq(x_diff) / 48).float())
    torch.testing.assert_close(weighted_norm(x_diff, t, 0.0), ((t.snr + 1) * norm_sq(x_diff).sqrt()).float())


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_are_almost_zero_with_a_finite_gradient_where_prediction_and_target_agree(distance, difference):
    x_diff = torch.zeros_like(difference[0], requires_grad=True)
    loss = DISTANCES[distance](x_diff, difference[1], 1e-4)
    loss.sum().backward()
    assert loss.detach().max() < 1.01e-4 / difference[1].sigma.min() ** 2
    assert x_diff.grad.isfinite().all()


def test_multiscale_weights_resolutions_alike_and_level_zero_is_the_mean_square():
    v_diff = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pooled = v_diff.view(4, 3, 4, 2, 4, 2).mean(dim=(3, 5))
    full, half = (value.square().mean(dim=(1, 2, 3)) for value in (v_diff, pooled))
    torch.testing.assert_close(multiscale(v_diff, 0), full)
    torch.testing.assert_close(multiscale(v_diff, 1), (full + half) / 2)
