"""The stage evaluate, from folders to folders, with a tiny network."""

import json

import numpy as np
import pytest
import torch

from components.evaluate.__main__ import main
from components.evaluate.stage import evaluate
from mcm.artifacts import folder_md5, write_config
from mcm.denoiser import Denoiser
from mcm.errors import UserError
from mcm.model import save_denoiser
from mcm.networks.presets import build, network_config
from mcm.samplers import initial_noise
from mcm.schedules import cosine
from mcm.training.loop import Trained
from mcm.variance import XVarTable

SECTION = {
    "samples": 12,
    "batch_size": 5,
    "seed": 3,
    "pictures": 6,
    "teacher_samplers": [{"name": "addim", "steps": 3, "x_var": "table"}, {"name": "ddim", "steps": 2}],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data set of 2 classes at 16 pixels, a teacher, a 2-step student, a variance table."""
    root = tmp_path_factory.mktemp("artifacts")
    generator = np.random.default_rng(0)
    dataset = root / "dataset"
    dataset.mkdir()
    for split, count in (("train", 20), ("holdout", 4)):
        coarse = generator.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
        np.save(dataset / f"{split}_images.npy", coarse.repeat(4, axis=1).repeat(4, axis=2))
        np.save(dataset / f"{split}_labels.npy", np.arange(count) % 2)
    counts = {"train": 20, "holdout": 4}
    write_config(
        dataset,
        "dataset",
        1,
        {"classes": ["a", "b"], "num_classes": 2, "resolution": 16, "channels": 3, "counts": counts},
    )

    network = network_config("uvit_tiny", 16, 3, 2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = Denoiser(build(network))
        for value in denoiser.parameters():
            torch.nn.init.normal_(value, std=0.05)
    weights = {name: value.detach() for name, value in denoiser.named_parameters()}
    trained = Trained(weights, {"ema_0.9": weights}, [{"iteration": 1, "loss": 1.0}])
    for name, values in (
        ("teacher", {"method": "diffusion", "student_steps": None}),
        ("cd-2", {"method": "cd", "student_steps": 2}),
    ):
        save_denoiser(root / name, trained, network, cosine(16), values)

    t = np.array([0.25, 0.5, 1.0])
    table = XVarTable(t, np.array([2.0, 0.0, -20.0]), *[np.full(3, 0.01)] * 2, np.full(3, 9), np.full(3, 0.02))
    (root / "variance").mkdir()
    table.write(root / "variance" / "table.csv")
    write_config(root / "variance", "variance", 1, {})
    return root


def run(folders, tmp_path, model, name, variance=True, **changes):
    out, timing = tmp_path / "evaluations" / name, tmp_path / "timings" / f"{name}.json"
    evaluate(
        {"evaluation": {**SECTION, **changes}},
        folders / model,
        folders / "dataset",
        out,
        timing,
        folders / "variance" if variance else None,
        name,
        tmp_path / "work",
    )
    return out, json.loads(timing.read_text())


def read(out, file="metrics.json"):
    return json.loads((out / file).read_text())


def test_a_teacher_has_a_row_and_pictures_for_every_sampler(folders, tmp_path):
    out, timing = run(folders, tmp_path, "teacher", "teacher")
    rows = read(out)
    assert list(rows) == list(timing) == ["addim-3", "ddim-2"]
    assert rows["addim-3"]["reference"] == folder_md5(folders / "dataset")
    assert rows["ddim-2"]["nfe"] == timing["ddim-2"]["nfe"] == 2
    assert rows["ddim-2"]["ema"] == "ema_0.9" and rows["ddim-2"]["seed"] == 3 and rows["ddim-2"]["samples"] == 12
    assert timing["addim-3"]["seconds_per_image"] > 0 and timing["addim-3"]["batch"] == 5
    assert sorted(path.name for path in out.iterdir()) == [
        *("config.json", "metrics.json", "samples-addim-3.npy", "samples-ddim-2.npy"),
    ]
    config = read(out, "config.json")
    assert config["kind"] == "evaluation" and config["method"] == "diffusion" and config["student_steps"] is None
    assert config["evaluation"]["extractor"] == "effnet-lite0@128"
    assert config["floor"]["between"] == "two halves of train" and config["floor"]["counts"] == [10, 10]
    assert set(config["inputs"]) == {"dataset", "model", "variance"}


def test_a_student_is_sampled_with_ddim_at_its_own_steps(folders, tmp_path):
    out, timing = run(folders, tmp_path, "cd-2", "cd-2", variance=False)
    assert list(read(out)) == list(timing) == ["ddim-2"]
    samples = np.load(out / "samples.npy")
    assert samples.shape == (6, 16, 16, 3) and samples.dtype == np.uint8
    # the student's weights are the teacher's here: same noise, same sampler, same pictures
    teacher, _ = run(folders, tmp_path, "teacher", "teacher")
    np.testing.assert_array_equal(samples, np.load(teacher / "samples-ddim-2.npy"))
    assert not np.array_equal(samples, np.load(teacher / "samples-addim-3.npy"))


def test_the_same_evaluation_has_the_same_bytes(folders, tmp_path):
    first, _ = run(folders, tmp_path / "a", "cd-2", "cd-2")
    second, _ = run(folders, tmp_path / "b", "cd-2", "cd-2")
    assert folder_md5(first) == folder_md5(second)


def test_a_compiled_model_samples_whole_batches_and_gives_the_same_figures(folders, tmp_path, monkeypatch):
    """The compiler itself is tested where it is called; without it the wrapper and the filled last batch remain."""
    monkeypatch.setattr("torch._dynamo.config.disable", True)
    plain, _ = run(folders, tmp_path / "a", "cd-2", "cd-2")
    sizes, real = set(), Denoiser.forward

    def watching(self, z_t, *others):
        sizes.add(len(z_t))
        return real(self, z_t, *others)

    monkeypatch.setattr(Denoiser, "forward", watching)
    compiled, _ = run(folders, tmp_path / "b", "cd-2", "cd-2", compile=True)
    assert sizes == {5}  # of 12 images
    one, other = (read(out)["ddim-2"] for out in (plain, compiled))
    assert other["samples"] == 12 and one["fid"] == pytest.approx(other["fid"], rel=1e-3)
    difference = np.load(plain / "samples.npy").astype(int) - np.load(compiled / "samples.npy").astype(int)
    assert np.abs(difference).max() <= 1
    assert read(compiled, "config.json")["evaluation"]["compile"] is True


def test_pictures_are_the_first_samples_of_the_seed(folders, tmp_path):
    from mcm.data.arrays import to_uint8
    from mcm.model import load_denoiser
    from mcm.samplers import SamplerConfig, labels_for, sample

    out, _ = run(folders, tmp_path, "cd-2", "cd-2", variance=False)
    loaded = load_denoiser(folders / "cd-2")
    sampler = SamplerConfig(name="ddim", steps=2)
    with torch.inference_mode():
        x = sample(
            loaded.denoiser,
            initial_noise(3, range(6), (3, 16, 16)),
            sampler.levels(loaded.schedule),
            sampler,
            labels_for(range(6), 2),
        )
    difference = to_uint8(x).astype(int) - np.load(out / "samples.npy").astype(int)
    assert np.abs(difference).max() <= 1  # a batch of 6 rounds otherwise than one of 5


def test_bad_input_is_refused_and_leaves_what_was_there(folders, tmp_path):
    out, _ = run(folders, tmp_path, "cd-2", "cd-2")
    before = folder_md5(out)
    with pytest.raises(UserError, match="did you mean 'effnet-lite0@224'"):
        run(folders, tmp_path, "cd-2", "cd-2", extractor="effnet-lite0@22")
    with pytest.raises(UserError, match="samples"):
        run(folders, tmp_path, "cd-2", "cd-2", samples=4)
    with pytest.raises(UserError, match="36 pictures of 12 samples"):
        run(folders, tmp_path, "cd-2", "cd-2", pictures=36)
    with pytest.raises(UserError, match="two of the teacher's samplers are the same"):
        run(folders, tmp_path, "teacher", "cd-2", teacher_samplers=[{"steps": 2}, {"steps": 2}])
    with pytest.raises(UserError, match="did you mean 'addim'"):
        run(folders, tmp_path, "teacher", "cd-2", teacher_samplers=[{"name": "addm", "steps": 2}])
    with pytest.raises(UserError, match="addim-3 reads a measured x_var; give --variance"):
        run(folders, tmp_path, "teacher", "cd-2", variance=False)
    with pytest.raises(UserError, match=r"no weights called 'ema_0\.5'"):
        run(folders, tmp_path, "cd-2", "cd-2", ema="ema_0.5")
    assert folder_md5(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["cd-2"]


def test_the_program_writes_what_the_function_writes(folders, tmp_path, capsys):
    params = tmp_path / "params.yaml"
    params.write_text(json.dumps({"evaluation": SECTION}))
    arguments = ["--params", params, "--model", folders / "cd-2", "--dataset", folders / "dataset"]
    arguments += ["--out", tmp_path / "cd-2", "--timing", tmp_path / "cd-2.json", "--work", tmp_path / "work"]
    main([str(argument) for argument in arguments])
    out, _ = run(folders, tmp_path, "cd-2", "cd-2", variance=False)
    assert folder_md5(out) == folder_md5(tmp_path / "cd-2")

    arguments[3] = folders / "dataset"
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert left.value.code == 2
    assert "a denoiser is needed" in capsys.readouterr().err
