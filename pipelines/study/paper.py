"""The paper's figures, named for the series of ours that they stand beside."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from components.report.compare import PAPER_TABLE
from mcm.config import Config, suggest
from mcm.errors import UserError

FOLDER = Path(__file__).parent / "paper"
DATASETS = {"imagenet64": "ImageNet64", "imagenet128": "ImageNet128", "cifar10": "CIFAR-10"}


@dataclass(frozen=True)
class _Printed:
    """A table as printed: its file, whose it is, and what all of it shares."""

    path: Path
    whose: str
    dataset: str | None = None  # None: a column says it
    size: str | None = None


PRINTED = {
    "table1": _Printed(PAPER_TABLE, "paper, Table 1"),
    "table2": _Printed(FOLDER / "table2_annealing_imagenet128_cd.csv", "paper, Table 2", "imagenet128"),
    "table3": _Printed(
        FOLDER / "table3_progressive_distillation_imagenet64_small.csv", "paper, Table 3", "imagenet64", "small"
    ),
    "table4": _Printed(FOLDER / "table4_teacher_sampler_imagenet64.csv", "paper, Table 4", "imagenet64"),
    "table5": _Printed(FOLDER / "table5_literature.csv", "works cited in the paper, Table 5"),
    "ect": _Printed(FOLDER / "related_ect_cifar10.csv", "ECT's paper"),
}


class PaperConfig(Config):
    """Which of the paper's figures stand beside ours: `series` maps our labels to the paper's names.

    table1: `CT`, `CD`, `aDDIM` of a `dataset` and `size`; table2: `anneal_64_to_1280`, `constant_128`,
    `constant_256`, `constant_1024`; table3: `PD`; table4: `ddim`, `addim`; table5: its methods, of a `dataset`;
    ect: `ECT` (not the paper's own).
    """

    table: Literal["table1", "table2", "table3", "table4", "table5", "ect"]
    series: dict[str, str] = Field(min_length=1)
    dataset: Literal["imagenet64", "imagenet128"] | None = Field(None, description="where the table has both")
    size: Literal["small", "large"] | None = Field(None, description="of the network, where the table has both")


@dataclass(frozen=True)
class Source:
    """Figures of a table of the paper: FID by (our series, steps). `label` says what they are, `kind` of which data."""

    name: str
    label: str
    kind: str
    fid: dict[tuple[str, int], float]
    ratio: bool = False  # of FIDs

    @property
    def series(self) -> tuple[str, ...]:
        """Our labels of the series that it has figures for."""
        return tuple(dict.fromkeys(series for series, _ in self.fid))

    def of(self, series: str) -> dict[int, float]:
        """FID by steps."""
        return {steps: value for (name, steps), value in self.fid.items() if name == series}

    def over(self, series: str) -> "Source | None":
        """Ratios to this series at its most steps, or None where it has no figures."""
        below = self.of(series)
        if not below:
            return None
        divisor = below[max(below)]
        return replace(self, fid={place: value / divisor for place, value in self.fid.items()}, ratio=True)


def source(config: PaperConfig, where: str) -> Source:
    """The figures that a config names. UserError where the table has no such series, or needs a dataset or size."""
    printed = PRINTED[config.table]
    dataset, size = config.dataset or printed.dataset, config.size or printed.size
    rows = pd.DataFrame(list(_rows(config.table)))
    for key, value, own in (("dataset", dataset, printed.dataset), ("size", size, printed.size)):
        if key in rows:
            known = sorted(set(rows[key]))
            if (value is None and len(known) > 1) or value not in (None, *known):
                raise UserError(f"{where}: {config.table} has {key} {' and '.join(known)}; give {key}: {known[0]}")
            rows = rows[rows[key] == (value or known[0])]
            if key == "dataset":
                dataset = str(value or known[0])
        elif getattr(config, key) not in (None, own):
            raise UserError(f"{where}: {config.table} is of {key} {own or 'one kind'}; drop {key}: {value}")
    fid: dict[tuple[str, int], float] = {}
    for series, theirs in config.series.items():
        part = rows[rows["series"] == theirs]
        if part.empty:
            raise UserError(
                f"{where}: {config.table} has no series '{theirs}'; {suggest(theirs, sorted(set(rows['series'])))}"
            )
        fid |= {(series, int(steps)): float(value) for steps, value in zip(part["steps"], part["fid"], strict=True)}
    network = f"{size} network, " if size else ""
    kind = f"({network}{DATASETS[str(dataset)]}, Inception FID, 50\u202f000 samples)"
    whose = printed.whose.partition(", Table")[0]
    return Source(
        f"{printed.whose}, {size}" if size else printed.whose, f"{printed.whose} {kind}", f"{whose} {kind}", fid
    )


def _rows(table: str) -> Iterator[dict[str, object]]:
    """A table as printed, one figure a row: series, steps, fid, and dataset and size where it has several."""
    printed = pd.read_csv(PRINTED[table].path)
    for row in printed.to_dict("records"):
        if table == "table1":
            place = {"dataset": row["dataset"], "size": row["size"], "steps": row["steps"]}
            if row["model"] == "diffusion_addim":
                yield {**place, "series": "aDDIM", "fid": row["ct_fid"]}
            else:
                yield {**place, "series": "CT", "fid": row["ct_fid"]}
                yield {**place, "series": "CD", "fid": row["cd_fid"]}
        elif table in ("table5", "ect"):
            yield {"dataset": row["dataset"], "series": row["method"], "steps": row["nfe"], "fid": row["fid"]}
        elif table == "table3":
            yield {"series": "PD", "steps": row["steps"], "fid": row["pd_fid"]}
        else:
            steps, *names = printed.columns
            for name in names:
                yield {"series": name, "steps": row[steps], "fid": row[name]}
