"""Bytes of the tensors that are alive while code runs on fake tensors: what a run would hold, without holding it."""

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts storages from the operation that makes them until nobody holds them; entered within a FakeTensorMode.

    Each storage is counted under the `label` of the time it was made, unless `count` gives it another. `peak` is the
    count at the moment when most was alive, labels beside one another. Operations on real tensors alone (the times of a
    step, which are decided on the host) are computed, as they are when training, and everything else is only traced.

    torch's own MemTracker counts the same way, and does not know a network that is called twice in a step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.label = ""
        self.now: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._known: dict[int, tuple[weakref.ref[Any], str, int]] = {}

    @property
    def highest(self) -> int:
        """Bytes at the peak."""
        return self.peak.total()

    def count(self, tensors: list[Tensor], label: str) -> None:
        """Count these tensors under `label` from now on."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._forget(id(storage))
            self._remember(storage, label)
        self._compare()

    def restart(self) -> None:
        """Forget the peak so far: what is alive now is the highest seen."""
        self.peak = Counter(self.now)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if tensors and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with unset_fake_temporarily():
                result = func(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._remember(leaf.untyped_storage(), self.label)
        self._compare()
        return result

    @contextlib.contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """Count what is made within under `label`."""
        before, self.label = self.label, label
        try:
            yield
        finally:
            self.label = before

    def _remember(self, storage: torch.UntypedStorage, label: str) -> None:
        key = id(storage)
        if key not in self._known:
            reference = weakref.ref(storage, lambda _: self._forget(key))
            self._known[key] = (reference, label, storage.nbytes())
            self.now[label] += storage.nbytes()

    def _forget(self, key: int) -> None:
        _, label, size = self._known.pop(key, (None, "", 0))
        self.now[label] -= size

    def _compare(self) -> None:
        if self.now.total() > self.highest:
            self.peak = Counter(self.now)
