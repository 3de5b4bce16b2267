"""Runs in a store that lies in a bucket, by the prefix of the store, of a run, and by id."""

from pathlib import Path

import pytest

from components.storage import upload
from mcm.errors import UserError
from pipelines.lineage.resolve import resolve
from pipelines.lineage.store.records import LineageStore
from tests.lineage.builders import chain, write
from tests.storage.conftest import cache, patience, running, server, uri  # noqa: F401 (fixtures)


@pytest.fixture
def store(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:  # noqa: F811
    """A store of two runs; the second trained one student anew and took the rest from the first."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    first = chain("run-one")
    again = chain("run-two", parameters={"students.seed@train_student cd-1": 8}, earlier=first, begin=10_000)
    write(tmp_path / "lineage", [*first, *again])
    upload(tmp_path / "lineage", f"{uri}/lineage")
    return f"{uri}/lineage"


def test_a_run_in_a_bucket_by_its_prefix_and_by_its_id(store: str) -> None:
    for name, stores in ((f"{store}/run-two", []), (f"{store}/run-two/", []), ("run-two", [LineageStore(store)])):
        graph = resolve(name, stores)
        assert (graph.run, len(graph.nodes), graph.sources) == ("run-two", 9, ())
        assert {key for key, node in graph.nodes.items() if not node.reused} == {
            "train_student cd-1",
            "evaluate cd-1",
            "report",
        }


def test_prefixes_that_name_no_run(store: str) -> None:
    with pytest.raises(UserError) as error:
        resolve(store, [])
    assert str(error.value) == f"{store}: holds 2 runs; name one of them: run-one, run-two"
    with pytest.raises(UserError, match=r"nothing: no lineage store here; name the folder"):
        resolve(f"{store}/nothing", [])
    with pytest.raises(UserError, match=r"^gs://no-such-bucket"):
        resolve("gs://no-such-bucket", [])
