"""A module compiled by torch.compile, and eager where that does not work.

Worth it on a GPU, where the work between the matrix products is bound by memory. On a CPU the compiled network of the
default run is no faster than the eager one, and takes a minute to compile.
"""

import sys
from typing import Any, Literal

import torch
from torch import Tensor, nn

Mode = Literal["default", "reduce-overhead"]


class Compiled(nn.Module):
    """`module` compiled at its first call; use `compiled`.

    It stands on the module's own tables of parameters, buffers and children, so both have the same names, and what is
    loaded into, trained in or moved by one is so in the other. Its hooks are its own.
    """

    def __init__(self, module: nn.Module, mode: Mode):
        super().__init__()
        self._parameters = module._parameters
        self._buffers = module._buffers
        self._modules = module._modules
        self._non_persistent_buffers_set = module._non_persistent_buffers_set
        self.training = module.training
        self._hidden = (module,)  # in a tuple, where it is no child of this one
        self._mode: Mode = mode
        self._call: Any = torch.compile(module.forward, mode=mode, dynamic=False)

    @property
    def module(self) -> nn.Module:
        """The module itself, eager."""
        return self._hidden[0]

    def train(self, mode: bool = True) -> "Compiled":
        self.module.train(mode)
        self.training = mode
        return self

    def forward(self, *args: Any) -> Any:
        """What `module` returns of the same arguments. Each new shape is compiled once."""
        if self._call is None:
            return self.module(*args)
        try:
            if self._mode == "reduce-overhead" and torch.cuda.is_available():
                # CUDA graphs write each result to the same memory: the caller gets a copy that stays.
                torch.compiler.cudagraph_mark_step_begin()
                return _copy(self._call(*args))
            return self._call(*args)
        except Exception as error:
            result = self.module(*args)  # where the fault is the module's or its arguments', this is where it shows
            self._call = None
            reason = str(error).strip().partition("\n")[0]
            print(f"torch.compile does not work here, going on without: {reason}", file=sys.stderr)
            return result

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_call": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._call = torch.compile(self.module.forward, mode=self._mode, dynamic=False)


def _copy(result: Any) -> Any:
    return result.clone() if isinstance(result, Tensor) else result


def compiled(module: nn.Module, mode: Mode = "default") -> Compiled:
    """`module` through torch.compile, sharing its parameters and their names; compiled at the first call.

    `mode` "reduce-overhead" replays CUDA graphs, for sampling, where the step is short and its shape stays. Where the
    compiler does not work (none is installed, or it fails), one line on stderr says so and every call is eager.
    """
    return Compiled(module, mode)
