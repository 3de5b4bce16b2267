"""`mcm lineage log`: runs of stores and DVC's history, filters, and what is printed."""

import csv
import io
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from components.lineage.record import Code, Origin, Record
from pipelines.lineage.commands.log import main
from tests.chain.programs import ROOT
from tests.lineage.builders import BEGUN, chain, md5, record, write
from tests.lineage.dvc_project import Project, lock_of

DAY = 86_400.0
HEAVY = ("torch", "numpy", "pandas", "kfp", "dvc", "google.cloud", "rich", "kubernetes")
FIRST = chain("mcm-20260301-120000-aaaaaa")
TAUGHT = chain(
    "dvc-20260302-120000-b", by="dvc", parameters={"teacher.learning_rate": 0.01}, begin=DAY, experiment="exp"
)
CACHED = chain("cccccccc-0000-4000-8000-000000000000", by="kubeflow", earlier=FIRST, begin=2 * DAY, commit=None)
MODELS = {"teacher.ddim-4": "teacher", "cd-1": "cd-1", "cd-2": "cd-2"}


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("MCM_LINEAGE", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")


@pytest.fixture
def store() -> Path:
    """Three runs where `log` looks: by mcm, by DVC, and on a cluster, where most was cached."""
    place = Path("artifacts/lineage")
    for run in (FIRST, TAUGHT, CACHED):
        write(place, run)
    return place


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    main(list(words))
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def runs(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The first letters of the runs that are listed."""
    main([*words, "--json"])
    return [entry["run"] for entry in json.loads(capsys.readouterr().out)]


def letters(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Of the three runs, those that are listed: their last or first letter."""
    return "".join(
        {FIRST[0].run.id: "a", TAUGHT[0].run.id: "b", CACHED[0].run.id: "c"}[r] for r in runs(capsys, *words)
    )


def fid(run: list[Record], task: str) -> float:
    return next(r for r in run if r.name == f"evaluate {task}").metrics["ddim-4.fid"]


def test_the_table(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys).splitlines()
    cells = [line.split("  ") for line in lines]
    table = [[cell.strip() for cell in row if cell.strip()] for row in cells]
    figures = [[f"{fid(run, task):.2f}" for task in ("teacher", "cd-1", "cd-2")] for run in (FIRST, TAUGHT)]
    assert table == [
        ["run", "began", "by", "stages", "cost", "commit", "teacher", "cd-1", "cd-2"],
        ["cccccccc-0000-4000-8000-000000000000", "2026-03-03 12:00", "kubeflow", "1 + 8 cached", "60 s", *figures[0]],
        ["dvc-20260302-120000-b", "2026-03-02 12:00", "dvc exp", "9", "9 min", "ccccccc", *figures[1]],
        ["mcm-20260301-120000-aaaaaa", "2026-03-01 12:00", "mcm", "9", "9 min", "ccccccc", *figures[0]],
    ]
    assert len({line.index("began") if "began" in line else line.index("2026-03-0") for line in lines}) == 1


def test_a_narrow_terminal_shows_the_models_that_fit(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = shown(capsys).splitlines()
    monkeypatch.setenv("COLUMNS", str(len(wide[0]) - 1))
    narrow = shown(capsys).splitlines()
    assert narrow[0].endswith("cd-1") and narrow[:-1] == [line[: len(narrow[0])].rstrip() for line in wide]
    assert narrow[-1] == "not shown, for want of room: FID of cd-2; --json and --csv have all"


def test_json_and_csv_say_the_same(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(shown(capsys, "--json"))
    assert listed[0] == {
        "run": CACHED[0].run.id,
        "revision": False,
        "store": "artifacts/lineage",
        "started": "2026-03-03T12:00:00+00:00",
        "ended": (BEGUN + timedelta(days=2, seconds=860)).isoformat(),
        "by": "kubeflow",
        "experiment": None,
        "executed": 1,
        "cached": 8,
        "unfinished": 0,
        "device_seconds": 60.0,
        "commit": None,
        "dirty": False,
        "stages": {
            "estimate_variance": [""],
            "evaluate": ["cd-1", "cd-2", "teacher"],
            "prepare_data": [""],
            "report": [""],
            "train_student": ["cd-1", "cd-2"],
            "train_teacher": [""],
        },
        "fid": {key: fid(FIRST, task) for key, task in MODELS.items()},
    }
    rows = list(csv.DictReader(io.StringIO(shown(capsys, "--csv"))))
    flat = [{**{k: v for k, v in entry.items() if k not in ("stages", "fid")}, **entry["fid"]} for entry in listed]
    assert rows == [{key: "" if value is None else str(value) for key, value in entry.items()} for entry in flat]
    assert list(rows[0])[-3:] == ["teacher.ddim-4", "cd-1", "cd-2"]


def evaluation(task: str, metrics: dict[str, float], stage: str = "evaluate") -> Record:
    return record(stage, task, run="run-1", metrics=metrics)


def test_which_fid_is_whose(capsys: pytest.CaptureFixture[str]) -> None:
    write(
        Path("artifacts/lineage"),
        [
            evaluation("teacher", {"ddim-64.fid": 5.0, "addim-64.fid": 6.0, "ddim-64.kid": 0.5}),
            evaluation("cd-10", {"ddim-10.fid": 10.0}),
            evaluation("cd-2", {"ddim-2.fid": 2.0}),
            evaluation("", {"ddim-2.fid": 3.0}),
            evaluation(
                "", {"ct-1.fid": 1.0, "ct-2.ddim-2.fid": 399.996, "teacher.ddim-64.fid": 7.0, "cd-2.fid": 8.0}, "report"
            ),
            record("train_teacher", run="run-1", metrics={"loss": 1.0, "some.fid": 9.0}),
        ],
    )
    assert json.loads(shown(capsys, "--json"))[0]["fid"] == {
        "cd-10": 10.0,
        "cd-2": 2.0,
        "model": 3.0,
        "teacher.ddim-64": 5.0,
        "teacher.addim-64": 6.0,
        "ct-1": 1.0,
        "ct-2": 399.996,
    }
    header, row = shown(capsys).splitlines()
    assert header.split()[-6:] == ["teacher", "cd-2", "cd-10", "ct-1", "ct-2", "model"]
    assert row.split()[-6:] == ["5.00", "2.00", "10.00", "1.00", "400.0", "3.00"]


def test_how_it_went_and_what_it_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    dirty = Code(commit="d" * 40, dirty=True, files={})
    write(
        Path("artifacts/lineage"),
        [
            record("train_teacher", run="run-1", status="failed"),
            record("train_student", "cd-1", run="run-1", status="stopped", begin=100, code=dirty, cost=None),
            record("evaluate", "cd-1", run="run-1", begin=50),
            record("prepare_data", run="run-0", begin=-9000, cost=None, started=None, ended=None, code=None),
        ],
    )
    assert [line.split("  ") for line in shown(capsys).splitlines()][1:] == [
        ["run-1", "2026-03-01 12:00", "mcm", "1 + 2 unfinished", "2 min", "ddddddd*"],
        ["run-0", *[""] * 9, "mcm", "1"],
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--by dvc", "b"),
        ("--by kubeflow", "c"),
        ("--by mcm", "a"),
        ("--stage train_teacher", "cba"),
        ("--param teacher.learning_rate=0.01", "b"),
        ("--param teacher.learning_rate=0.0100", "b"),
        ("--param teacher.learning_rate!=0.01", "ca"),
        ("--param teacher.learning_rate<0.005", "ca"),
        ("--param teacher.learning_rate>=0.002", "cba"),
        ("--param teacher.learning_rate>0.002 --param teacher.seed=0", "b"),
        ("--param teacher.emas=[0.995]", "cba"),
        ("--param network.preset=uvit_tiny", "cba"),
        ("--param network.preset=uvit", ""),
        ("--param network.preset!=uvit", "cba"),
        ("--param network.preset<5", ""),
        ("--param students.student_steps=2", "cba"),
        ("--stage train_student --param students.student_steps=2 --param students.method=cd", "cba"),
        ("--stage evaluate --param students.student_steps=2", ""),
        ("--param students.student_steps=2 --param teacher.seed=0", ""),  # of no one execution
        ("--since 2026-03-02", "cb"),
        ("--since 2026-03-02T12:00:01", "c"),
        ("--since 2026-03-02T14:00:00+02:00", "cb"),
        ("--until 2026-03-02", "ba"),
        ("--until 2026-03-02T12:00", "a"),
        ("--since 2026-03-02 --until 2026-03-02", "b"),
        ("--limit 1", "c"),
        ("--limit 2", "cb"),
        ("--limit 0", "cba"),
        ("--limit 1 --by mcm", "a"),
        ("--limit 1 --until 2026-03-02", "b"),
        (f"--artifact {FIRST[1].outputs[0].md5}", "ca"),  # the teacher, which the cluster took
        (f"--artifact {FIRST[1].outputs[0].md5.removesuffix('.dir')}", "ca"),
        (f"--artifact {TAUGHT[-1].outputs[0].md5}", "b"),
        (f"--artifact {FIRST[0].outputs[0].md5} --by mcm", "a"),
        (f"--artifact {'0' * 32}", ""),
    ],
)
def test_filters(store: Path, capsys: pytest.CaptureFixture[str], words: str, expected: str) -> None:
    for _ in range(2):  # without an index, and with it
        assert letters(capsys, *words.split()) == expected


def test_conditions_hold_of_one_execution(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"students.method": "cd", "students.steps": 1}, {"students.method": "ct", "students.steps": 2}]
    rows.append({"students.method": "cd", "students.steps": 1, "students.tag": "1"})
    rows.insert(0, {"students.method": "cd", "students.steps": 1, "students.clip": None})
    place = Path("artifacts/lineage")
    write(place, [record("train_student", f"x-{n}", run="run-1", parameters=row) for n, row in enumerate(rows)])

    def fits(*conditions: str) -> bool:
        return bool(runs(capsys, *(word for condition in conditions for word in ("--param", condition))))

    assert fits("students.method=cd", "students.steps=1") and fits("students.method=ct", "students.steps>1")
    assert not fits("students.method=cd", "students.steps=2") and not fits("students.method=ct", "students.steps<2")
    assert fits("students.clip=null") and fits("students.clip=null", "students.steps=1")
    assert not fits("students.clip!=null") and not fits("students.clip=null", "students.steps=2")
    assert not fits("students.clip<1")  # null is no number
    assert fits("students.method=cd", "students.tag=1") and not fits("students.tag<2")  # the text 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--param teacher.lr", "--param teacher.lr: not a condition; write name=value, or with !=, <, >, <= or >="),
        ("--param seed<one", "--param seed<one: 'one' is not a number; compare texts with = or !="),
        ("--artifact abc", "--artifact abc: not an md5; give all 32 digits, as in dvc.lock"),
        ("--since yesterday", "--since yesterday: not a date; write 2026-11-21 or 2026-11-21T10:00"),
        ("--until 2026-13-01", "--until 2026-13-01: not a date; write 2026-11-21 or 2026-11-21T10:00"),
        ("--limit -1", "--limit -1: not a number of runs; give 1 or more, or 0 for all"),
        ("--stage train_techer", "--stage train_techer: no run has such a stage; did you mean 'train_teacher'?"),
        (
            "--param teacher.learning_rat=1",
            "--param teacher.learning_rat: no run has such a parameter; did you mean 'teacher.learning_rate'?",
        ),
        ("--store nowhere", "nowhere: no such lineage store; a stage makes one named lineage beside its output"),
    ],
)
def test_bad_input_is_one_line(store: Path, capsys: pytest.CaptureFixture[str], words: str, line: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(words.split())
    assert left.value.code == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_nothing_to_list(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def said(*words: str) -> tuple[str, str]:
        main(list(words))
        return tuple(capsys.readouterr())  # type: ignore[return-value]

    hint = "no runs yet; `dvc repro` or a stage writes the first, or name --store\n"
    assert said() == ("", f"no lineage store here: {hint}")
    Path("artifacts/lineage").mkdir(parents=True)
    assert said() == ("", f"artifacts/lineage: {hint}")
    assert said("--stage", "evaluate") == ("", "no run fits these filters\n")
    assert said("--json")[0] == "[\n\n]\n" and json.loads(said("--json")[0]) == []
    assert said("--csv")[0].startswith("run,revision,store,by,") and len(said("--csv")[0].splitlines()) == 1


def test_what_is_no_record_is_a_warning(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = store / FIRST[0].run.id / "cut.json"
    cut.write_text("{")
    whole = store / "newer"
    write(whole.parent, [record("evaluate", run="newer")])
    for file in whole.iterdir():
        file.write_text(file.read_text().replace('"version": 1', '"version": 2'))
    main(["--json"])
    said = capsys.readouterr()
    assert len(json.loads(said.out)) == 3
    assert said.err.splitlines() == [
        f"warning: {cut}: cut short or no JSON, and left out; delete it, the others are whole",
        f"warning: {whole}: all records of this run (1) have a newer version than this program reads; upgrade it",
    ]


def test_a_run_that_lies_in_two_stores_is_listed_once(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("other"), FIRST)
    write(Path("other"), chain("zzz", begin=9 * DAY))
    words = ("--store", "artifacts/lineage", "--store", "other")
    listed = runs(capsys, *words)
    assert listed == ["zzz", CACHED[0].run.id, TAUGHT[0].run.id, FIRST[0].run.id]
    assert runs(capsys, *words, "--limit", "2") == listed[:2]


@pytest.fixture
def project(store: Path, tmp_path: Path) -> Project:
    """The runs' project: two commits of a lock, the first as FIRST left it, and an experiment as TAUGHT left it."""
    made = Project(tmp_path / "project")
    made.write(".gitignore", "artifacts\n")
    made.lock(lock_of(FIRST))
    made.commit("first")
    made.experiment("tame-exp", lock_of(TAUGHT))
    other = chain("not-recorded", parameters={"data.resolution": 64})
    made.lock(lock_of(other))
    made.commit("second")
    made.write("README.md", "of no interest")
    made.commit("third")
    return made


def test_dvc_history_stands_among_the_runs_with_what_is_known_of_its_models(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    second, first = project.git("rev-parse", "HEAD~1", "HEAD~2").splitlines()
    listed = json.loads(shown(capsys, "--json"))
    dates = [entry["started"] for entry in listed]
    assert dates == sorted(dates, reverse=True)
    revisions = {entry["run"]: entry for entry in listed if entry["revision"]}
    assert list(revisions) == [second[:7], "tame-exp", first[:7]] and len(listed) == 6
    assert [entry["commit"] for entry in revisions.values()][::2] == [second, first]
    assert revisions["tame-exp"]["experiment"] == "tame-exp" and revisions["tame-exp"]["by"] == "dvc"
    for name, run in (("tame-exp", TAUGHT), (first[:7], FIRST)):
        figures = {key.partition(".")[0]: value for key, value in run[-1].metrics.items() if key.endswith(".fid")}
        assert revisions[name]["fid"] == figures and len(figures) == 2  # as its report has them
        assert revisions[name]["executed"] == 9 and revisions[name]["device_seconds"] is None
    assert revisions[second[:7]]["fid"] == {}
    next(Path("artifacts/lineage", FIRST[0].run.id).glob("report-*")).unlink()
    without = {entry["run"]: entry for entry in json.loads(shown(capsys, "--json"))}[first[:7]]
    assert without["fid"] == {key: fid(FIRST, task) for key, task in MODELS.items()}  # as the evaluations have them
    row = next(line for line in shown(capsys).splitlines() if line.startswith("tame-exp"))
    assert row.split()[3:6] == ["dvc", "9", "locked"]


def test_a_filter_looks_behind_the_first_revisions(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--since", "2026-05-01", "--limit", "1", "--artifact", FIRST[1].outputs[0].md5]
    project.experiment("tame-exp", lock_of(TAUGHT))  # again, on another commit
    assert runs(capsys, *words) == [project.git("rev-parse", "HEAD~2")[:7]]
    assert runs(capsys, "--since", "2026-05-01").count("tame-exp") == 2


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--by", "dvc"], 4),
        (["--by", "mcm"], 1),
        (["--since", "2026-05-01"], 3),
        (["--since", "2027-05-01"], 0),
        (["--until", "2026-05-01"], 3),
        (["--limit", "2"], 2),
        (["--limit", "0"], 6),
        (["--stage", "report"], 6),
        (["--param", "teacher.learning_rate=0.01"], 2),
        (["--param", "data.resolution=64"], 1),
        (["--artifact", TAUGHT[1].outputs[0].md5], 2),
        (["--artifact", md5("mcm/steps.py", "", folder=False)], 0),  # code in the lock, and no artifact
    ],
)
def test_filters_hold_of_revisions_too(
    project: Project, capsys: pytest.CaptureFixture[str], words: list[str], count: int
) -> None:
    assert len(runs(capsys, *words)) == count


def test_it_starts_without_what_it_does_not_need(store: Path, tmp_path: Path) -> None:
    text = (
        "import sys; from pipelines.lineage.commands.log import main; main([]); "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", text], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and done.stdout.splitlines()[1].startswith("cccccccc")


def test_a_reader_may_leave_early(store: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `head` does when it has seen enough
    command = [sys.executable, "-m", "pipelines.lineage.commands.log"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=variables, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_was_only_taken_from_an_earlier_run_is_found_too(capsys: pytest.CaptureFixture[str]) -> None:
    origin = Origin(run="run-0", record="b" * 32)
    taken = record("train_teacher", run="run-1", outputs={"out": "a" * 32}, cached_from=origin)
    write(Path("artifacts/lineage"), [taken, record("train_teacher", run="run-2", begin=100)])
    assert runs(capsys, "--artifact", "a" * 32) == ["run-1"]
