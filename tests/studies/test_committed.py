"""The studies of the project: each is planned as a whole, and its page names only what its rows have."""

from pathlib import Path

import pytest

from pipelines.study.jobs import distinct, plan
from pipelines.study.options import STUDIES
from pipelines.study.page import check_page
from pipelines.study.results import outcomes
from pipelines.study.schema import read_study, study_names
from pipelines.study.store import Store


@pytest.mark.parametrize("name", study_names(STUDIES))
def test_every_row_and_the_page_of_a_study_can_be_made(name: str, tmp_path: Path) -> None:
    study = read_study(name)
    planned = plan(study)
    assert {each.row.seed for each in planned} >= set(study.seeds)
    assert len(distinct(planned)) >= len(planned)
    check_page(study, outcomes(planned, Store(tmp_path)))
