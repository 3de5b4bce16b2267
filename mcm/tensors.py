"""Tensors in files: safetensors, never pickles; disk errors come as OSError, so that a full disk reads as one."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mcm.errors import UserError


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any device by name. Raises OSError where the disk refuses."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read what `write_tensors` wrote; UserError where the file is missing, truncated or something else."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; train the model again or name another folder") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: truncated or not safetensors ({error}); copy or train it again") from None
