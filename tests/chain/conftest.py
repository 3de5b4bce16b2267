"""One `dvc repro` that many tests look at."""

import shutil
from pathlib import Path

import pytest

from tests.chain.programs import ROOT, run, write_params
from tests.conftest import data_section, tiny_params, write_pictures


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the project with the working tree's files and tiny parameters, after one `dvc repro`."""
    folder = tmp_path_factory.mktemp("clone") / "project"
    run("git", "clone", "--quiet", "--no-hardlinks", ROOT, folder)
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    (folder / "dvc.lock").unlink(missing_ok=True)
    params = {"data": data_section(write_pictures(folder / "data" / "pictures")), **tiny_params()}
    params["data"]["path"] = "data/pictures"
    write_params(folder / "params.yaml", params)
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--all", "-m", "tiny", cwd=folder)
    run("dvc", "repro", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "-m", "lock", cwd=folder)
    return folder
