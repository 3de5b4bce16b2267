"""Profiles: those of the project can run, and what no machine can give is one line."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcm.errors import UserError
from pipelines.machines import cpus, gibibytes, machines
from pipelines.policy import POLICIES
from pipelines.profile import FOLDER, STAGES, load_profile, profiles
from tests.chain.programs import ROOT

PROFILES = sorted(profiles())

GOOD: dict[str, Any] = {
    "description": "for a test",
    "platform": "gke",
    "image": "cuda",
    "default": {"cpu_request": 1, "memory_request": "4Gi"},
    "stages": {
        "train_teacher": {
            "accelerator": "h100-80gb",
            "count": 8,
            "machine": "a3-highgpu-8g",
            "cpu_request": 200,
            "memory_request": "1700Gi",
        }
    },
}
SLICE = {
    "accelerator": "tpu-v5e",
    "count": 4,
    "nodes": 2,
    "launcher": "JobSet",
    "topology": "2x4",
    "machine": "ct5lp-hightpu-4t",
    "cpu_request": 100,
    "memory_request": "160Gi",
}


def written(folder: Path, values: Any) -> Path:
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def error(folder: Path, values: Any) -> str:
    """The whole message about a profile, which is one line."""
    with pytest.raises(UserError) as caught:
        load_profile(written(folder, values))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_stage(stage: str, values: dict[str, Any], **top: Any) -> dict[str, Any]:
    return {**GOOD, **top, "stages": {stage: values}}


def training(**changes: Any) -> dict[str, Any]:
    return with_stage("train_teacher", {**GOOD["stages"]["train_teacher"], **changes})


def test_the_profiles_that_were_asked_for_are_there() -> None:
    asked = {"cpu", "gke-l4", "gke-a100", "gke-h100-8", "gke-h100-8x2", "tpu-v5e-2x4", "tpu-v6e-1", "k8s-gpu", "kind"}
    assert asked <= set(PROFILES)


@pytest.mark.parametrize("name", PROFILES)
def test_every_stage_has_room_on_its_machine(name: str) -> None:
    profile = load_profile(name)
    for stage in STAGES:
        asked = profile.stage(stage)
        if asked.machine:
            room = machines().allocatable(asked.machine)
            assert cpus(asked.cpu_request) <= room.cpu
            assert gibibytes(asked.memory_request) <= room.memory
            # And the larger part of the machine that is paid for is used.
            assert cpus(asked.cpu_request) >= 0.8 * room.cpu
            assert gibibytes(asked.memory_request) >= 0.8 * room.memory
        if asked.shm:
            assert gibibytes(asked.shm) <= gibibytes(asked.memory) / 2


@pytest.mark.parametrize("name", PROFILES)
def test_slices_have_as_many_chips_as_their_hosts(name: str) -> None:
    profile = load_profile(name)
    for stage in STAGES:
        asked = profile.stage(stage)
        if asked.topology:
            assert math.prod(int(side) for side in asked.topology.split("x")) == asked.nodes * asked.count


def test_allocatable_is_what_gke_publishes() -> None:
    # e2-standard-4: 3.92 CPUs and 13.2 GiB of 4 and 16, before daemonsets.
    room, daemonsets = machines().allocatable("e2-standard-4"), machines().daemonsets
    assert room.cpu + daemonsets.cpu == pytest.approx(3.92)
    assert room.memory + daemonsets.memory == pytest.approx(16 - 1 - 0.8 - 0.8 - 100 / 1024)


def test_a_path_works_like_a_name(tmp_path: Path) -> None:
    copied = tmp_path / "gke-l4.yaml"
    copied.write_text((FOLDER / "gke-l4.yaml").read_text())
    assert load_profile(copied) == load_profile(str(copied)) == load_profile("gke-l4")


def test_a_stage_overrides_the_default_and_mappings_meet_key_by_key(tmp_path: Path) -> None:
    values = with_stage("evaluate", {"memory_request": "8Gi", "node_selector": {"b": "stage", "c": True}})
    values["default"] = {**GOOD["default"], "node_selector": {"a": 1, "b": "default"}}
    profile = load_profile(written(tmp_path, values))
    assert profile.stage("evaluate").node_selector == {"a": "1", "b": "stage", "c": "true"}
    assert profile.stage("evaluate").memory_request == "8Gi"
    assert profile.stage("report").node_selector == {"a": "1", "b": "default"}
    assert profile.stage("report").memory == "4Gi"


def test_unknown_names_suggest_the_near_one(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_profile("gke-l5")
    assert str(caught.value) == (
        f"profile 'gke-l5': there is none of that name; did you mean 'gke-l4'? known: {', '.join(PROFILES)}; "
        "or give the path of a YAML file"
    )
    with pytest.raises(UserError, match=r"profile 'x': there is none of that name; known: cpu, "):
        load_profile("x")
    with pytest.raises(UserError) as caught:
        load_profile("gke-l4").stage("train_techer")
    assert str(caught.value) == "profile 'gke-l4': no stage 'train_techer'; did you mean 'train_teacher'?"
    assert error(tmp_path, {**GOOD, "imge": "cpu"}) == "profile 'own': unknown key 'imge'; did you mean 'image'?"
    assert error(tmp_path, with_stage("evalute", {})) == (
        "profile 'own': unknown stage 'evalute'; did you mean 'evaluate'?"
    )
    assert error(tmp_path, training(cont=8)) == (
        "profile 'own', stage train_teacher: unknown key 'cont'; did you mean 'count'?"
    )
    assert error(tmp_path, training(accelerator="h100-80g")) == (
        "profile 'own', stage train_teacher: unknown accelerator 'h100-80g'; did you mean 'h100-80gb'?"
    )
    assert error(tmp_path, training(machine="a3-highgpu-6g")) == (
        "profile 'own', stage train_teacher: unknown GKE machine 'a3-highgpu-6g'; did you mean 'a3-highgpu-8g'?"
    )


T = "profile 'own', stage train_teacher: "


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"count": 3, "machine": None},
            "3 h100-80gb, and a node has 1, 2, 4 or 8 of them; ask for one of these",
        ),
        ({"count": 4}, "4 h100-80gb of a3-highgpu-8g, which has 8; ask for these"),
        (
            {"count": 0.5},
            "'count' is 0.5: an accelerator is not divided; ask for a whole number",
        ),
        (
            {"cpu_request": 208},
            "208 CPUs and 1700Gi, and a pod can have 206.4 CPUs and 1825Gi of a3-highgpu-8g; ask for less",
        ),
        (
            {"memory_request": "1872Gi"},
            "200 CPUs and 1872Gi, and a pod can have 206.4 CPUs and 1825Gi of a3-highgpu-8g; ask for less",
        ),
        (
            {"machine": None, "count": 1, "accelerator": "l4", "cpu_request": 97},
            "97 CPUs and 1700Gi, and a pod can have 94.7 CPUs and 367Gi of g2-standard-96; ask for less",
        ),
        ({"nodes": 2}, "2 nodes without a launcher; set launcher to TrainJob or JobSet"),
        ({"launcher": "MPIJob"}, "'launcher' is 'MPIJob': input should be 'TrainJob' or 'JobSet'"),
        (
            {"machine": "g2-standard-8"},
            "g2-standard-8 has no h100-80gb; use one of a3-highgpu-1g, a3-highgpu-2g, a3-highgpu-4g, a3-highgpu-8g",
        ),
        ({"topology": "2x4"}, "topology 2x4 without a TPU; leave it out"),
        ({"cpu_request": "fast"}, "'cpu_request' is 'fast': 'fast' is no amount of CPUs; write 2, 0.5 or 500m"),
        ({"shm": "10 GB"}, "'shm' is '10 GB': '10 GB' is no amount of memory; write 512Mi, 64Gi or 1Ti"),
        ({"shm": "2Ti"}, "/dev/shm of 2Ti counts against a memory limit of 1700Gi; raise that"),
        ({"memory_limit": "1Gi"}, "memory_limit 1Gi is below memory_request 1700Gi; raise it"),
        ({"cpu_limit": "500m"}, "cpu_limit 500m is below cpu_request 200; raise it"),
        ({"count": 0}, "accelerator h100-80gb with count 0; give both or neither"),
        (
            {"accelerator": "nvidia", "machine": None},
            "nvidia is of platform kubernetes, the profile of gke; use l4, a100-40gb, a100-80gb, h100-80gb, tpu-v5e, "
            "tpu-v6e",
        ),
        ({"accelerator": "tpu-v5e"}, "tpu-v5e is a tpu, and image 'cuda' is not for it; change image"),
    ],
)
def test_what_an_accelerator_cannot_give_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert error(tmp_path, training(**changes)) == T + message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topology": "4x4"}, "topology 4x4 has 16 chips, and 2 nodes of 4 have 8; make them equal"),
        ({"topology": "2by4"}, "topology 2by4 is no TPU slice; write it as GKE does, such as 2x4"),
        ({"topology": None}, "topology None is no TPU slice; write it as GKE does, such as 2x4"),
        (
            {"topology": "1x8", "machine": None},
            "no 1x8 of hosts with 4 chips; there are ct5lp-hightpu-1t: 1x1, ct5lp-hightpu-4t: "
            "2x2/2x4/4x4/4x8/8x8/8x16/16x16, ct5lp-hightpu-8t: 2x4",
        ),
    ],
)
def test_a_slice_that_gke_does_not_have_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert load_profile(written(tmp_path, with_stage("train_teacher", SLICE, image="tpu"))).stage("train_teacher").count
    assert error(tmp_path, with_stage("train_teacher", {**SLICE, **changes}, image="tpu")) == T + message


def test_accelerators_are_for_the_stages_that_compute_on_them(tmp_path: Path) -> None:
    gpu = {"accelerator": "l4", "count": 1}
    for stage in ("plan", "prepare_data", "report", "conclude"):
        assert error(tmp_path, with_stage(stage, gpu)) == (
            f"profile 'own', stage {stage}: {stage} computes on the CPU, and would hold 1 l4; leave accelerator out"
        )
    assert error(tmp_path, {**GOOD, "default": {**GOOD["default"], **gpu}}) == (
        "profile 'own', default: plan computes on the CPU, and would hold 1 l4; leave accelerator out"
    )
    assert error(tmp_path, with_stage("evaluate", {**gpu, "count": 8})) == (
        "profile 'own', stage evaluate: evaluate runs in one process, and would hold 8 l4; set count to 1"
    )
    assert error(tmp_path, with_stage("evaluate", {"nodes": 2, "launcher": "JobSet"})) == (
        "profile 'own', stage evaluate: evaluate runs in one process, and would hold 2 nodes; set nodes to 1"
    )


def test_spot_is_gke_alone(tmp_path: Path) -> None:
    assert error(tmp_path, with_stage("evaluate", {"spot": True}, platform="kubernetes")) == (
        "profile 'own', stage evaluate: spot is GKE's; on another cluster give node_selector and tolerations of your "
        "own"
    )


def test_files_that_hold_no_profile_are_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "no.yaml"
    with pytest.raises(UserError) as caught:
        load_profile(missing)
    assert str(caught.value) == f"{missing}: no such profile; write one as pipelines/profiles/README.md says"
    with pytest.raises(UserError, match=r"no\.d: Is a directory; name a profile's YAML file"):
        (tmp_path / "no.d").mkdir()
        load_profile(f"{tmp_path}/no.d")
    assert error(tmp_path, []).endswith("own.yaml: holds no profile; write one as pipelines/profiles/README.md says")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(UserError) as caught:
        load_profile(broken)
    assert re.fullmatch(rf"{broken}: not readable as YAML: [^\n]+; mend the file", str(caught.value))
    assert error(tmp_path, {key: value for key, value in GOOD.items() if key != "default"}) == (
        "profile 'own': 'default' is missing; add it"
    )
    assert error(tmp_path, {**GOOD, "default": {"cpu_request": 1}}) == (
        "profile 'own', default: 'memory_request' is missing; add it"
    )
    assert error(tmp_path, {**GOOD, "volume": {"claim": "x", "mount": "here"}}).startswith(
        "profile 'own': 'volume.mount' is 'here': "
    )


def test_the_page_lists_every_profile_and_every_field() -> None:
    page = (FOLDER / "README.md").read_text()
    assert {name for name in re.findall(r"^\| `([\w-]+)` \|", page, re.M) if name in PROFILES} == set(PROFILES)
    stage = load_profile("cpu").stage("plan")
    assert {field for field in type(stage).model_fields if f"`{field}`" not in page} == set()
    assert (ROOT / "pipelines/profiles/__init__.py").exists(), "without it the files are not installed"


def test_the_page_shows_the_policy_of_every_stage() -> None:
    page = (FOLDER / "README.md").read_text()
    for stage, policy in POLICIES.items():
        hours = policy.timeout / 3600
        row = f"| `{stage}` | {'on' if policy.cache else 'off'} | {policy.retries} x {policy.backoff} s | {hours:g} h |"
        assert row in page
