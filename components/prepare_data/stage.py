"""Stage prepare_data: a source of images -> dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.runner import section
from mcm.data.config import DataConfig
from mcm.data.prepare import prepare


def prepare_data(params: Mapping[str, Any], out: Path) -> None:
    """Write the data set that section `data` describes to the folder `out`. `params` is the whole of `params.yaml`."""
    prepare(section(params, "data", DataConfig), out)
