"""Compiled pipelines: what they hold for every profile, that the committed ones are current, and what is refused."""

import functools
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.runner import SECTIONS, read_params
from mcm.errors import UserError
from pipelines.cli import main
from pipelines.compiler import HEADER, compile_pipeline, read_compiled, same
from pipelines.images import image
from pipelines.pipeline import STUDENT, TEACHER, Given
from pipelines.policy import POLICIES
from pipelines.profile import load_profile, profiles
from tests.chain.programs import ROOT
from tests.pipelines.graph import tasks_of

IMAGE = f"registry.example/mcm@sha256:{'0' * 64}"
PARAMS = read_params(ROOT / "params.yaml")
COMMITTED = sorted((ROOT / "pipelines/compiled").glob("*.yaml"))


@functools.cache
def compiled(profile: str) -> str:
    return compile_pipeline(load_profile(profile), IMAGE, PARAMS)


@functools.cache
def spec_of(profile: str) -> dict[str, Any]:
    return next(yaml.load_all(compiled(profile), yaml.CSafeLoader))


@pytest.fixture
def text() -> str:
    return compiled("kind")


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    return file


def dags(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The tasks of every graph in a pipeline."""
    inner = [component["dag"] for component in spec["components"].values() if "dag" in component]
    return [dag["tasks"] for dag in (spec["root"]["dag"], *inner)]


@pytest.mark.parametrize("name", profiles())
def test_every_profile_compiles_the_same_graph_in_one_pinned_image(name: str, tmp_path: Path, text: str) -> None:
    read = read_compiled(written(tmp_path, compiled(name)))
    assert (read.profile, read.version, read.images, read.unpinned) == (
        name,
        version("multistep-consistency"),
        {IMAGE},
        [],
    )
    assert tasks_of(compiled(name)) == tasks_of(text)


@pytest.mark.parametrize("name", profiles())
def test_every_task_is_cached_and_retried_as_its_policy_says(name: str) -> None:
    spec = spec_of(name)
    seen = set()
    for tasks in dags(spec):
        for task, about in tasks.items():
            if "dag" in spec["components"][about["componentRef"]["name"]]:
                continue
            stage = "evaluate" if task in (TEACHER, STUDENT) else task.replace("-", "_")
            seen.add(stage)
            assert about["cachingOptions"].get("enableCache", False) == POLICIES[stage].cache, task
            assert about["retryPolicy"]["maxRetryCount"] == POLICIES[stage].retries, task
    assert seen == set(POLICIES)


def test_the_parameters_file_gives_the_defaults(tmp_path: Path, text: str) -> None:
    parameters = read_compiled(written(tmp_path, text)).parameters
    assert {name: parameters[name] for name in SECTIONS} == {name: PARAMS[name] for name in SECTIONS}
    given = read_compiled(written(tmp_path, compile_pipeline(load_profile("kind"), IMAGE, PARAMS, Given(True, True))))
    assert given.parameters["dataset_uri"] is None and given.parameters["teacher_uri"] is None


def test_compiling_twice_gives_the_same_bytes(text: str) -> None:
    assert compile_pipeline(load_profile("kind"), IMAGE, PARAMS) == text


def test_only_the_release_of_kfp_may_differ(text: str) -> None:
    assert same(text, text.replace("sdkVersion: kfp-2.17.0", "sdkVersion: kfp-2.18.1"))
    assert not same(text, text.replace("maxRetryCount: 4", "maxRetryCount: 5"))


def test_a_stop_of_the_container_reaches_python() -> None:
    for executor in spec_of("kind")["deploymentSpec"]["executors"].values():
        assert "exec env _KFP_RUNTIME=true python3 -m" in executor["container"]["command"][-2]


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.stem)
def test_committed_files_are_what_the_code_compiles_to(file: Path) -> None:
    profile = load_profile(file.stem)
    assert same(file.read_text(), compile_pipeline(profile, image(profile.image).reference, PARAMS)), (
        "stale: mcm pipeline compile"
    )


def test_every_profile_whose_image_is_locked_has_a_committed_file() -> None:
    locked = {name for name, profile in profiles().items() if image(profile.image).pinned}
    assert locked == {file.stem for file in COMMITTED}


AGAIN = "compile it again: mcm pipeline compile"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: None, f"no such file; {AGAIN}"),
        (lambda text: "a: [", f"not readable as YAML; {AGAIN}"),
        (lambda text: "a: b\n", f"not a compiled pipeline of this project; {AGAIN}"),
        (lambda text: HEADER.sub("", text), f"not a compiled pipeline of this project; {AGAIN}"),
        (
            lambda text: text.replace(f"consistency {version('multistep-consistency')},", "consistency 0.0.9,", 1),
            f"compiled by version 0.0.9, and this is {version('multistep-consistency')}; {AGAIN}",
        ),
        (
            lambda text: text.replace(IMAGE, "registry.example/mcm:latest"),
            "image registry.example/mcm:latest is not by digest, so what runs could change; "
            "lock it (mcm pipeline images --build) or pass --allow-unpinned",
        ),
    ],
)
def test_a_file_that_must_not_leave_is_refused(tmp_path: Path, text: str, change: Any, message: str) -> None:
    changed = change(text)
    file = tmp_path / "pipeline.yaml" if changed is None else written(tmp_path, changed)
    with pytest.raises(UserError) as error:
        read_compiled(file)
    assert str(error.value) == f"{file}: {message}"


def test_an_unpinned_image_leaves_when_the_user_says_so(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, text.replace(IMAGE, "registry.example/mcm:latest"))
    assert read_compiled(file, allow_unpinned=True).unpinned == ["registry.example/mcm:latest"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--profile", "gke-l5"], "profile 'gke-l5': there is none of that name; did you mean 'gke-l4'?"),
        (["--profile", "kind", "--image", "mcm:latest"], "--image mcm:latest: not by digest"),
        (["--out", "one.yaml", "--image", IMAGE], "--out one.yaml: one file, and "),
        (["--profile", "kind", "-S", "teacher.iterations"], "-S teacher.iterations: not KEY=VALUE"),
        (["--profile", "kind", "-S", "teacher.iteration=3"], "unknown key 'iteration'; did you mean 'iterations'?"),
        (["--profile", "kind", "-S", "students.cd-1=3"], "section 'students'"),
    ],
)
def test_bad_options_are_one_line_and_nothing_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["pipeline", "compile", "--params", str(ROOT / "params.yaml"), *options])
    said = capsys.readouterr()
    assert left.value.code == 2 and said.out == ""
    assert len(said.err.splitlines()) == 1 and message in said.err
    assert list(tmp_path.iterdir()) == []
