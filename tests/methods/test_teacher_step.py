"""The teacher's steps beside the paper's: of second order, and inner ones; nothing changes where none is chosen."""

import pytest
import torch

from components.students import student_config
from mcm.errors import UserError
from mcm.methods.consistency import Consistency, TeacherSteps, halfway
from mcm.methods.interface import Batch
from mcm.mixtures import GaussianMixture
from mcm.schedules import cosine, interpolated
from mcm.steps import addim, ddim, norm_sq

BATCH, NULL = 16, 10
COMMON = {"iterations": 1, "batch_size": 1, "learning_rate": 1e-3}


def consistency(teacher, **options) -> Consistency:
    return Consistency(cosine(), 1, TeacherSteps(8, 8, 0), teacher, **options)


def levels(t, schedule=None):
    return (schedule or cosine())(torch.full((BATCH,), t, dtype=torch.float64))


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(3)
    return Batch(torch.randn(BATCH, 3, 4, 4, generator=generator), torch.arange(BATCH) % 10)


def test_error_to_the_exact_flow_is_of_second_order_and_smaller_than_addims_of_as_many_evaluations():
    points = GaussianMixture(
        torch.tensor([0.4, 0.6]), torch.tensor([[-0.4, 0.2], [0.5, 0.1]]), torch.tensor([0.5, 0.6])
    )
    z_1 = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, zero = (cosine()(torch.full((200,), t, dtype=torch.float64)) for t in (1.0, 0.0))
    exact = points.flow(z_1, one, zero, steps=200)

    def error(steps, **options):
        method, z = consistency(points.posterior_mean, x_var_frac=0.0, **options), z_1
        for k in range(steps, 0, -1):
            t, s = (cosine()(torch.full((200,), i / steps, dtype=torch.float64)) for i in (k, k - 1))
            z = method.teach(Batch(z, None), z, t, s)
        return (z - exact).square().mean().sqrt().item()

    coarse, fine = error(16, teacher_step="midpoint"), error(32, teacher_step="midpoint")
    assert 3.6 < coarse / fine < 4.6
    assert 1.8 < error(32) / error(64) < 2.2
    assert fine < error(64) / 5


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_velocity_is_corrected_by_twice_its_change_until_halfway(batch, guidance):
    """In the angle, where DDIM turns (z, v). The teacher is asked twice, guided both times, without a graph."""
    asked = []

    def teacher(z_t, t, labels, dropout_seeds=None):
        asked.append((t.logsnr[0].item(), len(z_t)))
        assert dropout_seeds is None and not torch.is_grad_enabled()
        return torch.where((labels == NULL)[:, None, None, None], 0.1, 0.5) * z_t

    t, s = levels(0.6), levels(0.5)
    middle = levels(0.55)
    z_t = batch.images + 1
    method = consistency(teacher, teacher_step="midpoint", guidance=guidance, null_label=NULL)
    gain = 0.5 + guidance * 0.4

    def v(z, at):
        alpha, sigma = at.alpha[0], at.sigma[0]
        return alpha * (z - alpha * gain * z) / sigma - sigma * gain * z

    half = (torch.atan2(middle.sigma, middle.alpha) - torch.atan2(t.sigma, t.alpha))[0]
    z_middle = half.cos() * z_t + half.sin() * v(z_t, t)
    v_turned = half.cos() * v(z_t, t) - half.sin() * z_t
    z_ddim = (2 * half).cos() * z_t + (2 * half).sin() * v(z_t, t)
    expected = z_ddim + (2 * half).sin() * (v(z_middle, middle) - v_turned)
    torch.testing.assert_close(method.teach(batch, z_t, t, s), expected, rtol=1e-4, atol=1e-5)
    count = BATCH * (2 if guidance else 1)
    assert [rows for _, rows in asked] == [count, count]
    assert [logsnr for logsnr, _ in asked] == pytest.approx([t.logsnr[0].item(), middle.logsnr[0].item()])


@pytest.mark.parametrize("schedule", [cosine(), interpolated(64, 32, 64)])
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.0), (1.0, 0.9), (0.1, 0.0), (0.55, 0.5)])
def test_halfway_is_a_level_between_both_and_finite_at_the_ends(schedule, t, s):
    t, s = levels(t, schedule), levels(s, schedule)
    middle = halfway(t, s)
    assert (s.alpha > middle.alpha).all() and (middle.alpha > t.alpha).all()
    torch.testing.assert_close(middle.alpha.square() + middle.sigma.square(), torch.ones(BATCH, dtype=torch.float64))
    torch.testing.assert_close(middle.snr.log(), middle.logsnr)


def test_the_whole_step_is_finite_from_noise_to_data(batch):
    method = consistency(lambda z, t, labels: 0.5 * z, teacher_step="midpoint")
    assert method.teach(batch, batch.images, levels(1.0), levels(0.0)).isfinite().all()


@pytest.mark.parametrize(("end", "step"), [(0.0, ddim), (0.25, addim)], ids=["to the data", "between levels"])
def test_inner_steps_alone_are_adjusted(batch, end, step):
    def teacher(z_t, t, labels):
        return 0.5 * z_t

    z_t, t, s = batch.images, levels(0.5), levels(end)
    x_var = 0.75 * norm_sq(0.5 * z_t - batch.images) / z_t[0].numel()
    expected = step(0.5 * z_t, z_t, t, s, *([x_var] if step is addim else []))
    assert torch.equal(consistency(teacher, teacher_step="addim_inner").teach(batch, z_t, t, s), expected)


def test_the_default_is_addim_and_leaves_no_key_in_a_configuration():
    plain = student_config({"students": {"common": COMMON}}, "cd", 2)
    second = student_config({"students": {"common": COMMON, "cd": {"teacher_step": "midpoint"}}}, "cd", 2)
    assert plain.teacher_step == "addim" and "teacher_step" not in plain.resolved()
    assert second.resolved() == {**plain.resolved(), "teacher_step": "midpoint"}
    assert type(plain).parse(plain.resolved(), "config") == plain


def test_training_without_a_teacher_has_no_step_of_it():
    with pytest.raises(UserError, match=r"students.*ct-2.*teacher_step is the teacher's"):
        student_config({"students": {"common": COMMON, "ct": {"teacher_step": "midpoint"}}}, "ct", 2)
