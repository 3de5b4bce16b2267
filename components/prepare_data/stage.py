"""Stage prepare_data: a source of images -> dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.lineage.recorder import note_input
from components.runner import section
from components.storage import fetch, is_remote
from mcm.artifacts import cache_folder
from mcm.data.config import DataConfig
from mcm.data.prepare import prepare
from mcm.errors import UserError


def prepare_data(params: Mapping[str, Any], out: Path, workers: int | None = None) -> None:
    """Write the data set that section `data` describes to the folder `out`. `params` is the whole of `params.yaml`.

    `workers` threads decode and resize, None is one for each core, and the data set does not depend on their number.
    Where `data.path` is in a bucket, a copy of it is kept by its content and read instead. The data set is the same.
    """
    config = section(params, "data", DataConfig)
    if config.path is None:
        prepare(config, out, workers)
        return
    if not is_remote(config.path):
        note_input("images", Path(config.path))
        prepare(config, out, workers)
        return
    copy = fetch(config.path, cache_folder() / "objects")
    note_input("images", copy)
    try:
        prepare(config.model_copy(update={"path": str(copy)}), out, workers)
    except UserError as error:
        raise UserError(str(error).replace(str(copy), config.path.rstrip("/"))) from None
