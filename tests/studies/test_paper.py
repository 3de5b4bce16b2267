"""The paper's figures are the printed ones, and stand under the names that a study gives them."""

import csv

import pytest

from mcm.errors import UserError
from pipelines.study.paper import PRINTED, PaperConfig, source


def printed(table):
    with PRINTED[table].path.open() as opened:
        return list(csv.DictReader(opened))


def fid(table, **keys):
    return source(PaperConfig(table=table, **keys), "here").fid


@pytest.mark.parametrize("dataset", ["imagenet64", "imagenet128"])
@pytest.mark.parametrize("size", ["small", "large"])
def test_table_1_is_as_printed(dataset, size):
    found = fid("table1", dataset=dataset, size=size, series={"ours": "CD", "theirs": "CT", "teacher": "aDDIM"})
    rows = [row for row in printed("table1") if (row["dataset"], row["size"]) == (dataset, size)]
    expected = {}
    for row in rows:
        if row["model"] == "diffusion_addim":
            expected["teacher", int(row["steps"])] = float(row["cd_fid"])
        else:
            expected["ours", int(row["steps"])] = float(row["cd_fid"])
            expected["theirs", int(row["steps"])] = float(row["ct_fid"])
    assert found == expected and len(found) == 11


@pytest.mark.parametrize("table", ["table2", "table4"])
def test_tables_2_and_4_are_as_printed(table):
    rows = printed(table)
    first, *names = rows[0]
    found = fid(table, series={f"ours {name}": name for name in names})
    assert found == {(f"ours {name}", int(row[first])): float(row[name]) for row in rows for name in names}


def test_table_3_is_as_printed():
    expected = {("our PD", int(row["steps"])): float(row["pd_fid"]) for row in printed("table3")}
    assert fid("table3", series={"our PD": "PD"}) == expected
    assert expected["our PD", 1] == 10.7


def test_table_5_is_as_printed():
    rows = [row for row in printed("table5") if row["dataset"] == "imagenet64"]
    names = {row["method"] for row in rows}
    found = fid("table5", dataset="imagenet64", series={name: name for name in names})
    assert found == {(row["method"], int(row["nfe"])): float(row["fid"]) for row in rows}
    assert found["TRACT", 4] == 2.93


def test_ect_is_as_printed():
    assert fid("ect", series={"ECT": "ECT"}) == {("ECT", 2): 2.73}


def test_labels_say_what_the_figures_are():
    found = source(PaperConfig(table="table3", series={"PD": "PD"}), "here")
    assert found.label == "paper, Table 3 (small network, ImageNet64, Inception FID, 50\u202f000 samples)"
    assert "CIFAR-10" in source(PaperConfig(table="ect", series={"ECT": "ECT"}), "here").label


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"table": "table1", "size": "small", "series": {"CD": "CD"}}, "has dataset imagenet128 and imagenet64; give"),
        ({"table": "table1", "dataset": "imagenet64", "series": {"CD": "CD"}}, "has size large and small; give size"),
        ({"table": "table3", "series": {"PD": "PDD"}}, "table3 has no series 'PDD'; did you mean 'PD'"),
        ({"table": "table3", "dataset": "imagenet128", "series": {"PD": "PD"}}, "table3 is of dataset imagenet64"),
        ({"table": "ect", "dataset": "imagenet64", "series": {"ECT": "ECT"}}, "ect has dataset cifar10; give"),
    ],
)
def test_figures_that_are_not_there_are_a_user_error(keys, message):
    with pytest.raises(UserError, match=message):
        source(PaperConfig(**keys), "studies/small.yaml: paper 1")
