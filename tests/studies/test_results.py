"""From the store to rows: each row's figures are its own job's, and times are the clock's that means something."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcm.artifacts import write_config, write_json
from pipelines.study.jobs import Planned, plan
from pipelines.study.results import outcomes
from pipelines.study.schema import read_study
from pipelines.study.store import Store
from tests.studies import small

FLOOR = {"fid": 9.5, "kid": 0.25, "between": ["train", "holdout"], "counts": [20, 4]}


@pytest.fixture
def images(tmp_path: Path) -> tuple[list[Planned], Store]:
    """Four rows of images, evaluated but for the last: files as the stage writes them, with a figure for each place."""
    planned, store = plan(read_study("small", small.write(tmp_path))), Store(tmp_path / "work")
    for number, each in enumerate(planned[:-1], 1):
        figures = {"fid": 1.0, "kid": 2.0, "kid_standard_error": 3.0, "precision": 4.0, "recall": 5.0}
        row = {**{name: value + 10 * number for name, value in figures.items()}, "nfe": 7 * number, "seed": 0}
        folder = store.folder(each.last)
        folder.mkdir(parents=True)
        write_json(folder / "metrics.json", {"ddim-1": {**row, "extractor": "FID (x)", "samples": 16}})
        write_config(folder, "evaluation", 1, {"floor": FLOOR})
        np.save(folder / "samples.npy", np.zeros((1, 2, 2, 3), dtype=np.uint8))
        write_json(store.beside(each.last, "sampling"), {"ddim-1": {"seconds_per_image": 0.5 * number}})
        write_json(store.beside(each.last, "timing"), timed(1000.0, "cpu, 1 threads"))
    return planned, store


def timed(seconds: float, device: str) -> dict[str, Any]:
    about = {"attempts": 2, "finished": True, "device": device, "commit": "abc", "dirty": True, "code": "md5"}
    return {"seconds": seconds, "processor_seconds": seconds / 10, **about}


def test_figures_and_their_noise_floor_are_those_of_the_evaluation(images: tuple[list[Planned], Store]) -> None:
    planned, store = images
    found = outcomes(planned, store)
    for number, (each, outcome) in enumerate(zip(planned[:-1], found, strict=False), 1):
        metrics = {"fid": 1.0, "kid": 2.0, "precision": 4.0, "recall": 5.0}
        assert outcome.metrics == {name: value + 10 * number for name, value in metrics.items()}
        assert (outcome.nfe, outcome.measured["seconds_per_image"]) == (7 * number, 0.5 * number)
        assert outcome.pictures == store.folder(each.last) / "samples.npy"
        about = {"noise_floor_fid": 9.5, "noise_floor_kid": 0.25, "kid_standard_error": 3.0 + 10 * number}
        assert outcome.about.items() >= {**about, "extractor": "FID (x)", "samples": 16}.items()
        assert outcome.about["noise_floor_between"] == ["train", "holdout"]
    assert [(o.series, o.method, o.steps) for o in found] == [
        ("CD", "cd", 1),
        ("CD", "cd", 2),
        ("aDDIM", "addim", 2),
        ("ddim", "ddim", 2),
    ]
    assert found[-1].metrics == {} and found[-1].pictures is None and found[-1].nfe == 2


def test_training_time_is_the_students_by_the_clock_of_its_device(images: tuple[list[Planned], Store]) -> None:
    planned, store = images
    devices = ("cpu, 1 threads", "NVIDIA H200")
    for number, (each, device) in enumerate(zip(planned, devices, strict=False), 1):
        write_json(store.beside(each.last.inputs["model"], "timing"), timed(number * 20.0, device))
    on_cpu, on_gpu, sampler, missing = outcomes(planned, store)
    assert (on_cpu.seconds, on_cpu.measured["clock"]) == (2.0, "processor seconds of one thread")
    assert (on_gpu.seconds, on_gpu.measured["clock"]) == (40.0, "seconds")
    assert (sampler.seconds, sampler.images, missing.seconds) == (None, None, None)
    assert on_cpu.images == 12 * 8 and on_cpu.is_student and not sampler.is_student
    assert on_gpu.measured.items() >= {"attempts": 2, "device": devices[1], "commit": "abc", "dirty": True}.items()
    for outcome in (on_cpu, on_gpu, sampler):
        assert "code" not in outcome.measured and "finished" not in outcome.measured


def test_jobs_that_a_row_came_from_are_named(images: tuple[list[Planned], Store]) -> None:
    planned, store = images
    for each, outcome in zip(planned, outcomes(planned, store), strict=True):
        jobs = outcome.about["jobs"]
        assert jobs == list(dict.fromkeys(job.name for job in each.last.chain())) and jobs[-1] == each.last.name
        assert json.dumps(jobs).count("dataset-") == 1
