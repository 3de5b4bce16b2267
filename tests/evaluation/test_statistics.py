"""Streaming moments and the bounded store."""

import numpy as np
import torch

from mcm.evaluation.statistics import FeatureStore, Moments


def data(count=500, dimensions=12, seed=0):
    generator = np.random.default_rng(seed)
    # a large common offset, where a sum of squares would lose its digits
    return (generator.normal(size=(count, dimensions)) @ generator.normal(size=(dimensions, dimensions)) + 1e4).astype(
        np.float32
    )


def streamed(features, sizes):
    moments = Moments(features.shape[1])
    start = 0
    for size in sizes:
        moments.update(torch.from_numpy(features[start : start + size]))
        start += size
    return moments


def close(a: Moments, b: Moments):
    assert a.count == b.count
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(a.covariance, b.covariance, rtol=1e-9, atol=1e-9)


def test_moments_are_those_of_numpy():
    x = data()
    moments = streamed(x, [1, 2, 97, 0, 400])
    assert moments.count == 500
    np.testing.assert_allclose(moments.mean.numpy(), x.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance.numpy(), np.cov(x.astype(np.float64), rowvar=False), atol=1e-9)


def test_moments_do_not_depend_on_order_or_batches():
    x = data()
    whole = streamed(x, [500])
    close(streamed(x, [7] * 71 + [3]), whole)
    close(streamed(x[np.random.default_rng(1).permutation(500)], [100] * 5), whole)


def test_merging_streams_is_one_stream():
    x = data()
    left, right, empty = streamed(x[:130], [130]), streamed(x[130:], [300, 70]), Moments(12)
    left.merge(right)
    left.merge(empty)
    close(left, streamed(x, [500]))
    empty.merge(left)
    close(empty, left)


def test_one_vector_has_no_covariance():
    assert not streamed(data(1), [1]).covariance.any()


def test_store_keeps_the_first_and_no_more():
    x = data(50)
    store = FeatureStore(20)
    for start in range(0, 50, 8):
        store.update(torch.from_numpy(x[start : start + 8]))
    np.testing.assert_array_equal(store.features, x[:20])
