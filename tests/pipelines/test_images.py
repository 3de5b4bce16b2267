"""The lock of images: what it holds, when an image is of another tree, and what is said of bad input."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mcm.errors import UserError
from pipelines import images
from pipelines.commands.images import main
from pipelines.images import Image, image, record, source_hash

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
REQUIREMENT = re.compile(r"^([a-z0-9.-]+)==([^ ]+) \\$")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of a few files, with no lock yet."""
    requirements = [f"containers/requirements-{target}.txt" for target in images.TARGETS]
    for name in ("Containerfile", *images.FILES, *requirements, "mcm/a.py", "components/x/stage.py", "presets/p.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "Containerfile").write_text("ARG BASE=base@sha256:0\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2"\n')
    monkeypatch.setattr(images, "ROOT", tmp_path)
    monkeypatch.setattr(images, "LOCK", tmp_path / "images.lock.json")
    return tmp_path


def built(target: str = "cpu", digest: str = DIGEST) -> Image:
    repository = f"registry.example/mcm-{target}"
    return Image(target=target, repository=repository, digest=digest, source=source_hash(target), base="base@sha256:0")


def test_what_is_recorded_is_found_and_other_rows_stay(tree: Path) -> None:
    record(built("cpu"))
    record(built("cuda", OTHER))
    assert image("cpu") == built("cpu")
    assert image("cuda").reference == f"registry.example/mcm-cuda@{OTHER}"
    record(built("cpu", OTHER))
    assert image("cpu").digest == OTHER
    assert image("cuda") == built("cuda", OTHER)
    assert image("cpu").pinned and not image("tpu").pinned
    assert [path.name for path in tree.iterdir() if path.name.startswith(".")] == []


def test_only_images_of_this_machine_are_local() -> None:
    assert Image(target="cpu", repository="localhost/mcm").local
    assert not Image(target="cpu", repository="europe-docker.pkg.dev/p/r/mcm").local
    assert not Image(target="cpu", repository="localhost.example/mcm").local


GOES_IN = """Containerfile containers/requirements-cpu.txt containers/install.sh pyproject.toml params.yaml
    presets/p.yaml mcm/a.py mcm/new.py components/x/stage.py pipelines/profiles/new.yaml"""
STAYS_OUT = """README.md components/x/README.md components/x/component.yaml components/versions.lock.json
    images.lock.json pipelines/compiled/cpu.yaml containers/requirements-cuda.txt containers/README.md
    mcm/__pycache__/a.pyc tests/test_a.py docs/a.md"""


@pytest.mark.parametrize("name", GOES_IN.split())
def test_an_image_is_stale_when_what_goes_in_changes(tree: Path, name: str) -> None:
    record(built())
    assert not image("cpu").stale()
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).write_text("changed")
    assert image("cpu").stale()


@pytest.mark.parametrize("name", STAYS_OUT.split())
def test_an_image_is_not_stale_when_what_stays_out_changes(tree: Path, name: str) -> None:
    record(built())
    before = source_hash("cpu")
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).write_text("{}")
    assert source_hash("cpu") == before


def test_a_renamed_file_is_another_source(tree: Path) -> None:
    before = source_hash("cpu")
    (tree / "mcm/a.py").rename(tree / "mcm/b.py")
    assert source_hash("cpu") != before


def test_an_image_that_was_not_built_says_how(tree: Path) -> None:
    assert not image("tpu").pinned and image("tpu").state() == "not built"
    with pytest.raises(UserError) as error:
        _ = image("tpu").reference
    assert str(error.value) == (
        "images.lock.json: no digest for the tpu image; build it with mcm pipeline images --build --target tpu "
        "--registry REGISTRY --push, or name one with --image"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "",
            "{lock}: not readable as JSON (Expecting value: line 1 column 1 (char 0))"
            "; restore it, or build the images again",
        ),
        ("[]", "{lock}, 'cpu': holds [], and a mapping is needed; build the image again"),
        ('{"cpu": "x"}', "{lock}, 'cpu': holds 'x', and a mapping is needed; build the image again"),
        ('{"cpu": {"repositry": "x"}}', "{lock}, 'cpu': unknown key 'repositry'; did you mean 'repository'?"),
        ('{"cpu": {"digest": "latest"}}', "{lock}, 'cpu': 'latest' is no digest; build the image again"),
    ],
)
def test_a_broken_lock_is_one_line(tree: Path, content: str, message: str) -> None:
    images.LOCK.write_text(content)
    with pytest.raises(UserError) as error:
        image("cpu")
    assert str(error.value) == message.format(lock=images.LOCK)


def test_a_row_of_the_lock_may_lack_nothing_but_what_has_a_default(tree: Path) -> None:
    images.LOCK.write_text(json.dumps({"cpu": {"digest": DIGEST}}))
    assert image("cpu").stale() and image("cpu").local


# The command


def left(*argv: str) -> int:
    with pytest.raises(SystemExit) as error:
        main(list(argv))
    assert isinstance(error.value.code, int)
    return error.value.code


def test_check_tells_current_from_stale_and_not_built(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(built("cpu"))
    main(["--check", "--target", "cpu"])
    assert capsys.readouterr().out == f"cpu   current    registry.example/mcm-cpu@{DIGEST}\n"
    (tree / "mcm/a.py").write_text("changed")
    assert left("--check", "--json") == 1
    states = {row["target"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert states == {"cpu": "stale", "cuda": "not built", "tpu": "not built"}


def test_an_image_built_elsewhere_can_be_locked(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--lock", f"registry.example/x@{DIGEST}", "--target", "cuda"])
    assert image("cuda").reference == f"registry.example/x@{DIGEST}" and not image("cuda").stale()
    assert left("--lock", "registry.example/x:1", "--target", "cuda") == 2
    assert left("--lock", f"registry.example/x@{DIGEST}") == 2
    assert capsys.readouterr().err == (
        "error: --lock registry.example/x:1: not by digest; name it as repository@sha256:...\n"
        "error: --lock: one image, and all targets; name one with --target\n"
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--target", "gpu"], "image 'gpu': no such target of the Containerfile; did you mean 'tpu'?"),
        (
            ["--build", "--target", "cpu", "--push"],
            "--push: no registry; name one, as --registry europe-docker.pkg.dev/PROJECT/REPOSITORY",
        ),
        (["--build", "--target", "cpu"], "podman: not installed; install it, or name another with --engine"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("PATH", str(tree))
    assert left(*argv) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not images.LOCK.exists()


def test_an_engine_that_fails_is_one_line() -> None:
    with pytest.raises(UserError) as error:
        images.run(["sh", "-c", "exit 3", "more"])
    assert str(error.value) == "sh -c 'exit 3': failed with status 3; its last lines say why"


@pytest.mark.parametrize("engine", images.ENGINES)
@pytest.mark.parametrize("push", [False, True])
def test_both_engines_build_with_a_fixed_clock(tree: Path, engine: str, push: bool) -> None:
    lines = images.commands(built(), engine, "my/base", None, push, tree / "said", tree)
    words = lines[0]
    assert words[0] == engine and words[-1] == str(tree)
    assert "BASE=my/base" in words and f"SOURCE={built().source}" in words
    assert any(str(images.EPOCH) in word for word in words)
    assert str(tree / "said") in lines[-1] or not push


# The files of this project


def test_the_context_of_a_build_is_what_the_hash_is_over() -> None:
    lines = (images.ROOT / ".containerignore").read_text().splitlines()
    requirements = {f"containers/requirements-{target}.txt" for target in images.TARGETS}
    assert {line[1:] for line in lines if line.startswith("!")} == {*images.FILES, *images.PACKAGES} | requirements
    assert [line for line in lines if line[0] not in "#!"] == ["*", *images.EXCLUDED]


def test_the_containerfile_takes_its_base_by_digest_and_copies_only_what_is_hashed() -> None:
    text = (images.ROOT / "Containerfile").read_text()
    assert images.DIGEST.search(images.default_base())
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
    assert set(images.TARGETS) <= stages
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) <= stages | {"${BASE}", "scratch"}
    copied = [word for line in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE) for word in line.split()]
    requirements = {f"containers/requirements-{target}.txt" for target in images.TARGETS}
    assert set(copied) == {*images.FILES, *images.PACKAGES} | requirements
    assert not re.search(r"^RUN ", text.partition("FROM runtime AS cpu")[2].partition("FROM tools")[0], re.MULTILINE)


def pinned(target: str) -> dict[str, str]:
    """Version by package; every line is a version with hashes, or a hash."""
    found = {}
    for line in (images.ROOT / f"containers/requirements-{target}.txt").read_text().splitlines():
        match = REQUIREMENT.match(line)
        assert match or line.startswith("#") or re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line), line
        if match:
            found[match[1]] = match[2]
    return found


def test_the_images_hold_the_same_versions_which_are_those_that_are_tested() -> None:
    cpu, cuda, tpu = (pinned(target) for target in images.TARGETS)
    tested = dict(re.findall(r"^(\S+)==(\S+)$", (images.ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert {name: cpu[name].partition("+")[0] for name in tested if name in cpu} == {
        name: version for name, version in tested.items() if name in cpu
    }
    assert (cpu.pop("torch"), cuda.pop("torch"), tpu.pop("torch")) == ("2.13.0+cpu", "2.13.0", "2.13.0+cpu")
    assert cpu.items() <= cuda.items() and cpu.items() <= tpu.items()
    assert {"nvidia-nccl-cu13", "triton"} <= set(cuda) and {"torch-tpu", "libtpu"} <= set(tpu)
    assert pinned("build")["setuptools"] == cpu["setuptools"], "the build would install one and the list another"


def test_the_images_hold_what_the_project_asks_for() -> None:
    cpu = pinned("cpu")
    for line in tomllib.loads((images.ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(cpu.get(canonicalize_name(wanted.name), "0")), (
            f"{line}: not in the images; run containers/requirements.sh"
        )
