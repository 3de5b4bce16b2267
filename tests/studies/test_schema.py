"""What a study file may hold, and what is said of one that is not as it must be."""

from pathlib import Path
from typing import Any

import pytest

from mcm.errors import UserError
from pipelines.study.schema import base_path, read_study
from tests.studies import small


def refused(folder: Path, rows: list[dict[str, Any]] | None = None, **values: Any) -> str:
    with pytest.raises(UserError) as error:
        read_study("small", small.write(folder, rows, **values))
    return str(error.value)


def test_a_study_is_read_by_its_name(tmp_path: Path) -> None:
    study = read_study("small", small.write(tmp_path, seeds=[3, 4]))
    assert (study.name, study.title, study.seeds, study.base_names) == ("small", "Small", (3, 4), ("tiny",))
    assert base_path(study, "tiny") == tmp_path / "studies" / "base" / "tiny.yaml"


def test_unknown_names_suggest_the_near_one(tmp_path: Path) -> None:
    studies = small.write(tmp_path)
    with pytest.raises(UserError, match="study 'smal' is unknown; did you mean 'small'"):
        read_study("smal", studies)
    study = read_study("small", studies).model_copy(update={"base": "tinny"})
    with pytest.raises(UserError, match=r"studies/small.yaml: base 'tinny' is unknown; did you mean 'tiny'"):
        base_path(study, "tinny")
    with pytest.raises(UserError, match="no studies here"):
        read_study("small", tmp_path / "nothing")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"seed": [0]}, r"studies/small.yaml: unknown key 'seed'; did you mean 'seeds'"),
        ({"name": "other"}, "unknown key 'name'; a study is called as its file"),
        ({"bases": ["tiny"]}, "'base' or 'bases', one of the two"),
        ({"seeds": [1, 1]}, "seeds hold one twice"),
        ({"plots": [{"name": "a"}, {"name": "a"}]}, "names of plots hold one twice: a"),
        ({"seeds": []}, "'seeds'"),
        ({"kind": "image"}, "'kind' is 'image'"),
        ({"plots": [{"name": "a"}, {"nam": "b"}]}, "plots 2: .*'name'"),
        ({"table": 3}, "'table' holds 3, and a list of mappings is needed"),
    ],
)
def test_keys_of_a_study(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_study("small", small.write(tmp_path, **values))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"series": "A"}, "neither method nor sampler"),
        ({"method": "cd"}, "with method and without steps"),
        ({"methods": "cd", "steps": 1}, "unknown key 'methods'; did you mean 'method'"),
        ({"method": "cd", "steps": "two"}, "'steps"),
    ],
)
def test_keys_of_a_row_and_which_row(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    message = refused(tmp_path, [*small.ROWS, row])
    assert message.startswith("studies/small.yaml, rows 4: ") and "\n" not in message
    with pytest.raises(UserError, match=said):
        raise UserError(message)


def test_a_row_names_bases_of_its_study(tmp_path: Path) -> None:
    rows = [{"method": "cd", "steps": 1, "bases": ["tinny"]}]
    assert "bases of a row name 'tinny'; did you mean 'tiny'" in refused(tmp_path, rows)
