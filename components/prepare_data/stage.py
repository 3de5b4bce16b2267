"""The stage as a function."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcm.errors import UserError


def prepare_data(params: Mapping[str, Any], out: Path) -> None:
    """Write the data set that the `data` section `params` of the parameters describes to the folder `out`."""
    from mcm.data.prepare import DataConfig, prepare

    if not isinstance(params, Mapping):
        raise UserError(f"data: holds {params!r}, and keys with values are needed; see data/README.md")
    prepare(DataConfig.parse(params, "data"), out)
