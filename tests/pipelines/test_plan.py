"""`mcm plan` reads parameters as training does, finds settings that fit, and says in one line what makes no plan."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcm.planning import memory as on_paper
from mcm.planning.devices import GIB, Device
from pipelines import plan as planning
from pipelines.commands.plan import main
from tests.conftest import tiny_params


@pytest.fixture
def params(tmp_path: Path) -> Path:
    values = tiny_params() | {"data": {"source": "emoji", "resolution": 16}}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def planned(capsys: pytest.CaptureFixture[str], params: Path, *arguments: str) -> dict[str, Any]:
    main(["--params", str(params), "--json", *arguments])
    return json.loads(capsys.readouterr().out)


def test_every_stage_on_every_number_of_devices(capsys: pytest.CaptureFixture[str], params: Path) -> None:
    found = planned(capsys, params, "--devices", "1", "4", "--student-steps", "2", "--price", "2")
    assert [(row["stage"], row["devices"]) for row in found["rows"]] == [
        (stage, count) for stage in ("teacher", "cd-2", "ct-2") for count in (1, 4)
    ]
    alone, four = found["rows"][:2]
    assert (alone["images"], alone["micro_batch"], four["micro_batch"]) == (24 * 8, 8, 2)
    assert four["hours"] == pytest.approx(alone["hours"] / 4)
    assert alone["cost"] == pytest.approx(four["cost"]) == pytest.approx(2 * alone["hours"])
    assert all(row["fits"] and row["as_given"] and row["total"] == sum(row["memory"].values()) for row in found["rows"])


def test_the_table_names_all_parts(capsys: pytest.CaptureFixture[str], params: Path) -> None:
    main(["--params", str(params), "--devices", "2", "--method", "cd", "--device", "h200"])
    out = capsys.readouterr().out
    for words in ("cd-1", "weights", "teacher", "activations", "DDP", "hours", "No price known for h200"):
        assert words in out


def test_settings_that_do_not_fit_give_way_to_some_that_do(
    capsys: pytest.CaptureFixture[str], params: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device with room for three quarters of the step: more micro-batches are the first remedy."""
    setting = on_paper.Setting(planning.network_config("uvit_tiny", 16), "diffusion", 64, 2, bf16=False, emas=2)
    room = 0.75 * sum(on_paper.memory(setting).values())
    small = Device("small", room / GIB / 0.92, 1e12, 1e11)
    monkeypatch.setitem(planning.DEVICES, "small", small)
    arguments = ("--devices", "2", "--batch", "64", "--method", "teacher", "--device", "small")
    row = planned(capsys, params, *arguments)["rows"][0]
    assert row["fits"] and not row["as_given"] and row["accumulate"] > 1 and row["micro_batch"] >= 4
    assert row["micro_batch"] <= row["largest_micro_batch"] < 32
    main(["--params", str(params), *arguments])
    assert f"set teacher: {{parallel: ddp, accumulate: {row['accumulate']}" in capsys.readouterr().out


def test_where_nothing_fits_the_plan_says_so(
    capsys: pytest.CaptureFixture[str], params: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(planning.DEVICES, "dust", Device("dust", 1e-6, 1e12, 1e11))
    main(["--params", str(params), "--devices", "2", "--method", "teacher", "--device", "dust"])
    assert "nothing fits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "imagenet64_larg"], "did you mean 'imagenet64_large'"),
        (["--device", "h10"], "did you mean 'h100'"),
        (["--devices", "3"], "3 devices do not divide a batch of 8"),
        (["--devices", "0"], "0 is no number of devices"),
        (["--price", "-1"], "below 0"),
        (["--mfu", "40"], "no share of a peak"),
        (["--batch", "0"], "no batch"),
        (["--device", "tpu-v5e"], "no float32 peak"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], params: Path, arguments: list[str], words: str
) -> None:
    source = [] if "--preset" in arguments else ["--params", str(params)]
    with pytest.raises(SystemExit) as left:
        main([*source, *arguments])
    error = capsys.readouterr().err
    assert left.value.code == 2 and words in error and error.count("\n") == 1
