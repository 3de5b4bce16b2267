"""torchvision, and clean-fid beside it, where torch has no CUDA.

torchvision is published with CUDA operators only. On a CPU build of torch its import stops because nobody has defined
`torchvision::nms`; with that schema defined the rest of it works, except detection and its own PNG codec (use Pillow).
Import both packages through this module.
"""

import importlib
import sys
from types import ModuleType

import torch

_NO_OPERATOR = "operator torchvision::nms does not exist"
_SCHEMAS: list[torch.library.Library] = []  # definitions live as long as their library object


def _import_torchvision() -> ModuleType:
    """torchvision, imported again with the missing schemas on exactly the error of a CPU build."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if _NO_OPERATOR not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _SCHEMAS.append(library)
    return importlib.import_module("torchvision")


torchvision: ModuleType = _import_torchvision()


def import_cleanfid(module: str) -> ModuleType:
    """`cleanfid.<module>`; it imports torchvision, which has been mended by now."""
    return importlib.import_module(f"cleanfid.{module}")
