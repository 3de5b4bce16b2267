"""The whole chain as `dvc repro` runs it, in a fresh clone, on tiny data."""

import json
from pathlib import Path

import pytest
import yaml

from mcm.artifacts import folder_md5
from tests.chain.programs import run

pytestmark = pytest.mark.slow


def stages_run(output: str) -> set[str]:
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


def test_every_artifact_is_there_and_dvc_names_it_as_we_do(project: Path) -> None:
    lock = yaml.safe_load((project / "dvc.lock").read_text())
    named = {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}
    folders = [path for path, md5 in named.items() if md5.endswith(".dir")]
    assert len(folders) >= 12
    for path in folders:
        assert folder_md5(project / path) == named[path], path


def test_a_second_repro_runs_nothing(project: Path) -> None:
    assert stages_run(run("dvc", "repro", cwd=project)) == set()


def test_metrics_plots_and_report_are_declared_and_there(project: Path) -> None:
    metrics = json.loads(run("dvc", "metrics", "show", "--json", cwd=project).split("\n")[0])
    assert any("summary.json" in name for name in metrics[""]["data"])
    assert '"dial"' in run("dvc", "plots", "show", "--json", cwd=project)
    assert (project / "artifacts/report/index.html").stat().st_size > 10_000


def test_a_parameter_of_one_student_runs_that_student_and_what_follows(project: Path) -> None:
    output = run("dvc", "exp", "run", "-S", "students.cd-2.iterations=12", cwd=project)
    assert stages_run(output) == {"train_student@cd-2", "evaluate_student@cd-2", "report"}
    assert "cd-2" in run("dvc", "exp", "show", "--csv", cwd=project)
