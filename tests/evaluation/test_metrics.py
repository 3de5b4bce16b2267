"""Fréchet distance, KID, precision and recall: known answers, clean-fid's own, and a second implementation."""

import math

import numpy as np
import pytest
import torch

from mcm.errors import UserError
from mcm.evaluation.metrics import covariance_root, frechet_distance, kernel_distance, precision_recall
from mcm.vision import import_cleanfid


def normal(count, dimensions, seed, shift=0.0, scale=1.0):
    draws = np.random.default_rng(seed).normal(size=(count, dimensions))
    return torch.from_numpy(shift + scale * draws)


def moments(features):
    return features.mean(dim=0), torch.cov(features.T)


def fid(a, b):
    return frechet_distance(*moments(a), *moments(b))


def test_frechet_distance_of_commuting_gaussians_is_in_closed_form():
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 1.0, 0.0])
    m = torch.tensor([1.0, 2.0, 2.0])
    expected = 9 + float((a.sqrt() - b.sqrt()).square().sum())
    assert frechet_distance(m, a.diag(), torch.zeros(3), b.diag()) == pytest.approx(expected, abs=1e-6)


def test_frechet_distance_agrees_with_cleanfid_at_full_rank():
    mix = torch.from_numpy(np.random.default_rng(2).normal(size=(40, 40)))
    a, b = normal(500, 40, 0) @ mix, normal(400, 40, 1, 0.3, 1.2) @ mix
    theirs = import_cleanfid("fid").frechet_distance(*(value.numpy() for value in (*moments(a), *moments(b))))
    assert fid(a, b) == pytest.approx(float(theirs), rel=1e-4)
    assert fid(a, b) == pytest.approx(fid(b, a), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("rank", [1, 7, 39, 40])
def test_the_root_of_a_covariance_is_one_at_any_rank(rank, scale):
    mix = torch.from_numpy(np.random.default_rng(rank).normal(size=(rank, 40))) * scale
    covariance = torch.cov((normal(300, rank, 0) @ mix).T)
    root = covariance_root(covariance)
    torch.testing.assert_close(root @ root.T, covariance, rtol=1e-9, atol=1e-12 * scale**2)
    assert root.shape[1] == rank or rank == 39


def test_cholesky_by_luck_of_a_covariance_short_of_full_rank_does_no_harm():
    lucky = 0
    for seed in range(20):
        vectors = torch.linalg.qr(normal(60, 60, seed)).Q
        values = torch.ones(60, dtype=torch.float64)
        values[-1] = 0
        covariance = (vectors * values) @ vectors.T
        covariance = (covariance + covariance.T) / 2
        lucky += not torch.linalg.cholesky_ex(covariance).info
        root = covariance_root(covariance)
        torch.testing.assert_close(root @ root.T, covariance, rtol=0, atol=1e-13)
        mean = torch.zeros(60)
        # to itself, and to four times itself: the sum of (2 - 1)^2 over 59 directions
        assert frechet_distance(mean, covariance, mean, covariance) < 1e-5
        assert frechet_distance(mean, covariance, mean, 4 * covariance) == pytest.approx(59, abs=1e-5)
    assert lucky


@pytest.mark.parametrize("count", [20, 200])
def test_frechet_distance_is_that_of_the_eigenvalues_of_the_plain_product(count):
    a, b = normal(count, 30, 0), normal(count, 30, 1, 0.3, 1.2)
    (mean_a, cov_a), (mean_b, cov_b) = moments(a), moments(b)
    trace = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    expected = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * trace
    assert fid(a, b) == pytest.approx(float(expected), rel=1e-5)
    assert fid(b, a) == pytest.approx(float(expected), rel=1e-5)


def test_frechet_distance_of_a_set_with_itself_is_zero_below_full_rank_too():
    for count in (400, 20):
        a = normal(count, 40, 0, scale=3.0)
        assert fid(a, a) < 1e-4 * float(moments(a)[1].trace())


def test_kid_agrees_with_cleanfid():
    a, b = normal(600, 32, 0), normal(500, 32, 1, shift=0.2)
    np.random.seed(0)
    theirs = import_cleanfid("fid").kernel_distance(a.numpy(), b.numpy(), num_subsets=100, max_subset_size=250)
    ours = kernel_distance(a, b, subsets=100, subset_size=250, seed=0)
    # both are means over 100 random subsets of the same images
    assert ours.value == pytest.approx(theirs, abs=0.4 * ours.standard_error)
    assert ours.value > 3 * ours.standard_error


def test_kid_is_the_unbiased_estimate_over_pairs():
    a, b = normal(6, 3, 0), normal(6, 3, 1, shift=1.0)

    def estimate(x, y):
        kernel = [[[(float(p @ q) / 3 + 1) ** 3 for q in t] for p in s] for s, t in ((x, x), (y, y), (x, y))]
        m = len(x)
        within = sum(kernel[k][i][j] for k in (0, 1) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
        return within - 2 * sum(map(sum, kernel[2])) / m**2

    generator = np.random.default_rng(5)
    expected = [
        estimate(a[generator.choice(6, 3, replace=False)], b[generator.choice(6, 3, replace=False)]) for _ in range(4)
    ]
    assert kernel_distance(a, b, subsets=4, seed=5).value == pytest.approx(np.mean(expected), rel=1e-10)


@pytest.mark.parametrize("counts", [(40, 25), (1500, 30)])  # subsets of one set larger than a block of its kernel, too
def test_kid_of_overlapping_subsets_is_that_of_each_by_itself(counts):
    a, b = normal(counts[0], 6, 0), normal(counts[1], 6, 1, shift=0.4)
    m, generator, values = counts[1] // 2, np.random.default_rng(3), []
    for _ in range(7):
        x, y = (features[torch.from_numpy(generator.choice(len(features), m, replace=False))] for features in (a, b))
        kernels = [(p @ q.T / 6 + 1) ** 3 for p, q in ((x, x), (y, y), (x, y))]
        within = sum(float(kernel.sum() - kernel.trace()) for kernel in kernels[:2]) / (m * (m - 1))
        values.append(within - 2 * float(kernels[2].mean()))
    found = kernel_distance(a, b, subsets=7, seed=3)
    assert found.value == pytest.approx(np.mean(values), rel=1e-10)
    spread = np.std(values, ddof=1) * (m / (counts[1] - m)) ** 0.5
    assert found.standard_error == pytest.approx(spread, rel=1e-8)


def test_kid_of_one_distribution_is_zero_within_its_error_and_seeded():
    a, b = normal(800, 16, 0), normal(800, 16, 1)
    kid = kernel_distance(a, b)
    assert abs(kid.value) < 4 * kid.standard_error
    assert kernel_distance(a, b) == kid
    assert kernel_distance(a, b, seed=1) != kid


def test_the_standard_error_of_kid_is_the_spread_between_new_sets():
    shifted = [
        kernel_distance(normal(200, 8, 2 * k), normal(200, 8, 2 * k + 1, shift=0.5), subsets=50) for k in range(30)
    ]
    spread = np.std([kid.value for kid in shifted], ddof=1)
    claimed = np.mean([kid.standard_error for kid in shifted])
    assert 0.6 < claimed / spread < 1.6


def test_precision_and_recall_on_a_line():
    # balls of the real set (k = 1): radius 1 around 0, 1, 2, and 8 around 10
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    # balls of the samples (k = 1): 0.2 around 0.5 and 0.7, 17.7 around -17, and 0.3 + 0.1 around 1.1
    samples = torch.tensor([[0.5], [0.7], [-17.0], [1.1]])
    result = precision_recall(real, samples, k=1)
    assert result.precision == pytest.approx(3 / 4)
    # -17's ball reaches 0.5: it holds 0; 1.1's ball reaches 0.7 to 1.5: it holds 1; nothing holds 2 or 10
    assert result.recall == pytest.approx(2 / 4)


def test_precision_and_recall_tell_lack_of_quality_from_lack_of_variety():
    real = normal(300, 8, 0)
    narrow = precision_recall(real, normal(300, 8, 1, scale=0.3))
    assert narrow.precision > 0.95 and narrow.recall < 0.3
    wide = precision_recall(real, normal(300, 8, 1, scale=3.0))
    assert wide.precision < 0.3 and wide.recall > 0.8
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, real + 1000) == (0.0, 0.0)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_precision_and_recall_agree_with_brute_force(chunk):
    real, samples = normal(60, 5, 0), normal(45, 5, 1, shift=0.6)

    def share(points, centres, k=3):
        points, centres = points.tolist(), centres.tolist()
        inside = 0
        for point in points:
            for i, centre in enumerate(centres):
                others = sorted(math.dist(centre, other) for j, other in enumerate(centres) if j != i)
                if math.dist(point, centre) <= others[k - 1]:
                    inside += 1
                    break
        return inside / len(points)

    expected = (share(samples, real), share(real, samples))
    assert precision_recall(real, samples, chunk=chunk) == pytest.approx(expected)
    assert 0 < expected[0] < 1 and 0 < expected[1] < 1


def test_too_few_images_are_refused():
    with pytest.raises(UserError, match="3 images in the smaller set; give at least 4"):
        kernel_distance(normal(3, 4, 0), normal(9, 4, 1))
    with pytest.raises(UserError, match="3 images; give more than 3"):
        precision_recall(normal(9, 4, 0), normal(3, 4, 1))
