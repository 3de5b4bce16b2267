"""Where a study may not write: one line before anything is run, and nothing is trained in vain."""

from pathlib import Path

import pytest

from pipelines.study.commands.run import main as run
from tests.studies import small

ROWS = [{"sampler": {"name": "ddim", "steps": 1}}]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    return ["exact", "--studies", str(small.write_exact(tmp_path, ROWS, bases=["rings"], seeds=[0])), "--jobs", "1"]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        run(words)
    said = capsys.readouterr().err
    assert left.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1, said
    return said


def test_a_file_for_a_folder(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    file, work = tmp_path / "file", tmp_path / "work"
    file.write_text("kept")
    said = refused([*words, "--work", str(work), "--out", str(file)], capsys)
    assert f"--out {file}: File exists; name a folder that can be written to" in said
    assert not (work / "store").exists()
    said = refused([*words, "--work", str(file)], capsys)
    assert f"--work {file / 'studies/exact'}: Not a directory; name a folder" in said
    assert file.read_text() == "kept"


@pytest.mark.slow
def test_a_store_that_takes_no_files_is_said_once_for_each_job_and_ends(
    tmp_path: Path, words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "locks").write_text("")  # where the store keeps a folder
    said = refused([*words, "--work", str(work)], capfd)
    assert f"{work / 'locks'}: File exists; free it, or choose another --work" in said and "Traceback" not in said
