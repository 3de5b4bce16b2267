"""What docs/kubernetes.md tells people to type exists: commands, options, files, machines, versions."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from pipelines.profile import profiles

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/kubernetes.md").read_text()
CODE = [*re.findall(r"(?ms)^```\n(.*?)^```", TEXT), *re.findall(r"`([^`\n]+)`", TEXT)]
COMMANDS = sorted({verb for code in CODE for verb in re.findall(r"\bmcm pipeline ([a-z]+)", code)})


@pytest.mark.parametrize("verb", COMMANDS)
def test_commands_have_the_options_that_the_page_gives_them(verb: str) -> None:
    asked = [sys.executable, "-m", "pipelines.cli", "pipeline", verb, "--help"]
    told = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT)
    assert told.returncode == 0, told.stderr
    known = set(re.findall(r"(?<![\w-])--?[\w-]+", told.stdout))
    lines = [line for code in CODE for line in code.replace("\\\n", " ").splitlines() if f"mcm pipeline {verb}" in line]
    for line in lines:
        for option in re.findall(r"(?<= )(--?[a-zA-Z][\w-]*)", line.partition("#")[0]):
            assert option in known, line


def test_the_page_has_a_pool_for_every_machine_of_every_profile() -> None:
    pools = [code for code in CODE if code.startswith("pool mcm-")]
    for name, profile in profiles().items():
        for hardware in profile.hardware.values():
            if hardware.machine:
                of_machine = [each for each in pools if f"--machine-type {hardware.machine} " in each]
                (pool,) = [each for each in of_machine if hardware.spot == ("$SPOT" in each)]
                assert f"`{name}`" in next(line for line in TEXT.splitlines() if pool in line)
                if hardware.topology and hardware.nodes > 1:
                    assert f"--tpu-topology {hardware.topology} --max-nodes {hardware.nodes}" in pool
    assert "--node-taints cloud.google.com/gke-spot=true:NoSchedule" in TEXT


def test_versions_are_those_of_the_packages() -> None:
    assert f"KFP_VERSION={version('kfp')} " in TEXT
    assert f"TRAINER_VERSION=v{version('kubeflow_trainer_api')} " in TEXT


def test_files_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"(?<![\w/.])((?:deploy|tests|components)/[\w./-]+)", TEXT)) - {"deploy/secrets/config.json"}
    for path in sorted(named):
        path = path.rstrip("./")
        assert (ROOT / path).exists() or (ROOT / "deploy" / path).exists(), path
