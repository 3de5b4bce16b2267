"""Batches and draws are functions of (seed, iteration, position): nothing about how training runs changes them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mcm.artifacts import write_config
from mcm.data.arrays import KIND, VERSION, ImageSet, to_uint8
from mcm.data.stream import Cells, TrainingStream, generator, loader
from mcm.errors import UserError

COUNT = 10
DRAWS = ("eps", "segment", "time", "label", "dropout_seeds")


def image_set(folder: Path, classes: list[str]) -> ImageSet:
    """Images whose pixels name them: row, column and index."""
    grid = np.arange(16, dtype=np.uint8).reshape(4, 4)
    images = np.stack([np.stack([grid, np.full_like(grid, k), grid.T], axis=2) for k in range(COUNT)])
    for split, part in (("train", images), ("holdout", images[:0])):
        np.save(folder / f"{split}_images.npy", part)
        np.save(folder / f"{split}_labels.npy", np.arange(len(part)) % max(1, len(classes)))
    values = {"classes": classes, "resolution": 4, "channels": 3, "counts": {"train": COUNT, "holdout": 0}}
    write_config(folder, KIND, VERSION, values)
    return ImageSet.open(folder)


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    return image_set(tmp_path, ["even", "odd"])


def stream(images: ImageSet, batch_size: int = 4, seed: int = 0, **others: int) -> TrainingStream:
    return TrainingStream(images, batch_size, seed, mirror=True, **others)


def flat(items: list) -> dict[str, Tensor]:
    """All tensors of a list of (batch, draws), joined along the batch."""
    named = [{"images": b.images, "labels": b.labels} | {name: getattr(d, name) for name in DRAWS} for b, d in items]
    return {key: torch.cat([item[key] for item in named]) for key in named[0]}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_types_and_shapes(images: ImageSet) -> None:
    batch, draws = stream(images)[0]
    assert batch.images.shape == draws.eps.shape == (4, 3, 4, 4)
    assert batch.images.dtype == draws.eps.dtype == torch.float32
    assert batch.labels is not None and batch.labels.dtype == draws.dropout_seeds.dtype == torch.int64
    for uniform in (draws.segment, draws.time, draws.label):
        assert uniform.dtype == torch.float64 and uniform.shape == (4,) and 0 <= uniform.min() <= uniform.max() < 1
    assert draws.dropout_seeds.min() >= 0 and draws.dropout_seeds.max() < 2**32


def test_ranks_together_hold_what_one_process_holds(images: ImageSet) -> None:
    for iteration in (0, 7):
        whole = flat([stream(images)[iteration]])
        for world_size in (2, 4):
            ranks = [stream(images, rank=rank, world_size=world_size)[iteration] for rank in range(world_size)]
            assert same(flat(ranks), whole)


@pytest.mark.parametrize("batch_size", [3, 6, 10])  # of 10 images: epochs end within batches, between them, with them
def test_any_number_of_processes_at_any_time_holds_what_one_holds(images: ImageSet, batch_size: int) -> None:
    """No image is read twice or lost, and a run may go on with more or fewer processes at any iteration."""
    whole = [flat([stream(images, batch_size=batch_size)[k]]) for k in range(12)]
    sizes = [w for w in range(1, batch_size + 1) if batch_size % w == 0]
    readers = {w: [stream(images, batch_size=batch_size, rank=r, world_size=w) for r in range(w)] for w in sizes}
    for iteration in range(12):
        for world_size in sizes:
            assert same(flat([reader[iteration] for reader in readers[world_size]]), whole[iteration])
    changing = [
        [reader.index(k, place) for reader in readers[sizes[k % len(sizes)]] for place in reader.positions]
        for k in range(10)
    ]
    seen = [image for batch in changing for image in batch]
    for start in range(0, len(seen) - COUNT + 1, COUNT):
        assert sorted(seen[start : start + COUNT]) == list(range(COUNT))


def test_a_cell_is_that_of_a_generator_made_for_it() -> None:
    cells = Cells(7, 1)
    for first, second in ((0, 0), (3, 5), (2**40, 1), (0, 0)):
        there, anew = cells.at(first, second), generator(7, 1, first, second)
        for draw in (
            lambda g: g.random(3),
            lambda g: g.integers(2**32, size=3),  # leaves half a word over, which the next cell must not see
            lambda g: g.standard_normal(9, dtype=np.float32),
        ):
            assert np.array_equal(draw(there), draw(anew))


def test_pinning_copies_what_travels(images: ImageSet) -> None:
    """Where there is no GPU nothing can be pinned: the loader is asked for it only where there is one."""
    batch, draws = stream(images)[0]
    if not torch.cuda.is_available():
        assert not next(loader(stream(images), 0, 1))[0].images.is_pinned()
        return
    pinned = next(loader(stream(images), 0, 1, pinned=True))
    assert pinned[0].images.is_pinned() and pinned[1].eps.is_pinned() and not pinned[1].time.is_pinned()
    assert same(flat([pinned]), flat([(batch, draws)]))


def test_worker_processes_change_no_bit(images: ImageSet) -> None:
    alone = flat(list(loader(stream(images), 0, 6, workers=0)))
    assert same(flat(list(loader(stream(images), 0, 6, workers=2))), alone)
    assert same(flat([stream(images)[iteration] for iteration in range(6)]), alone)


def test_starting_anywhere_gives_what_a_run_from_the_start_gives(images: ImageSet) -> None:
    whole = list(loader(stream(images), 0, 9))
    assert same(flat(list(loader(stream(images), 5, 9))), flat(whole[5:]))
    backwards = stream(images)
    assert same(flat([backwards[k] for k in reversed(range(9))][::-1]), flat(whole))


def test_the_loader_leaves_the_global_random_state_alone(images: ImageSet) -> None:
    before = torch.get_rng_state()
    list(loader(stream(images), 0, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_shows_every_image_once_in_an_order_of_its_own(images: ImageSet) -> None:
    reader = stream(images)
    order = [reader.index(iteration, k) for iteration in range(15) for k in range(4)]
    epochs = [order[start : start + COUNT] for start in range(0, 60, COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    labels = flat([reader[k] for k in range(5)])["labels"]
    assert labels.tolist() == [k % 2 for k in order[:20]]


def test_the_order_does_not_depend_on_the_batch_size(images: ImageSet) -> None:
    small, large = stream(images, batch_size=2), stream(images, batch_size=10)
    assert [small.index(k // 2, k % 2) for k in range(40)] == [large.index(k // 10, k % 10) for k in range(40)]


def test_draws_differ_between_positions_iterations_and_seeds(images: ImageSet) -> None:
    draws = flat([stream(images, seed=seed)[k] for seed in (0, 1) for k in range(5)])
    for name in DRAWS:
        assert len(torch.unique(draws[name], dim=0)) == 40


def test_draws_are_of_the_named_distributions(images: ImageSet) -> None:
    draws = flat([stream(images, batch_size=10)[k] for k in range(100)])
    eps = draws["eps"].flatten()  # 48000 values: three standard errors
    assert abs(eps.mean()) < 3 / len(eps) ** 0.5 and abs(eps.var() - 1) < 3 * (2 / len(eps)) ** 0.5
    for name in ("segment", "time", "label"):
        assert abs(draws[name].mean() - 0.5) < 3 / (12 * 1000) ** 0.5
    both = torch.stack([draws["segment"], draws["time"], draws["label"], eps.view(1000, -1)[:, 0].double()])
    assert (torch.corrcoef(both) - torch.eye(4)).abs().max() < 0.12


def test_about_half_of_the_images_are_mirrored_or_none(images: ImageSet) -> None:
    def kinds(mirror: bool) -> Counter[str]:
        seen: Counter[str] = Counter()
        reader = TrainingStream(images, 10, 0, mirror)
        for iteration in range(20):
            for position, pixels in enumerate(to_uint8(reader[iteration][0].images)):
                original = images.images[reader.index(iteration, position)]
                as_is, turned = np.array_equal(pixels, original), np.array_equal(pixels, original[:, ::-1])
                assert as_is != turned
                seen["mirrored" if turned else "as it is"] += 1
        return seen

    assert 70 < kinds(True)["mirrored"] < 130
    assert kinds(False) == {"as it is": 200}
    plain = TrainingStream(images, 10, 0, False)[3][1]
    assert torch.equal(plain.eps, TrainingStream(images, 10, 0, True)[3][1].eps)


def test_no_labels_without_classes(tmp_path: Path) -> None:
    assert stream(image_set(tmp_path, []))[0][0].labels is None


def test_bad_numbers_are_refused(images: ImageSet) -> None:
    with pytest.raises(UserError, match=r"10 train images, fewer than a batch of 11; set a smaller batch_size"):
        stream(images, batch_size=11)
    with pytest.raises(UserError, match=r"batch size 4 over 3 processes.*multiple of 3"):
        stream(images, world_size=3)
    with pytest.raises(UserError, match=r"batch size 0"):
        stream(images, batch_size=0)
    with pytest.raises(UserError, match=r"rank 2 of 2"):
        stream(images, rank=2, world_size=2)
    with pytest.raises(UserError, match=r"seed -1"):
        stream(images, seed=-1)
