"""Reading pieces of safetensors files by `torch.distributed.checkpoint`, whose planner knows which ones are needed."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from mcm.training.sharded import Stored


def read(stored: Stored, into: Mapping[str, Tensor]) -> None:
    """Fill tensors, or this process's part of them (DTensor), in place. Nothing is asked of other processes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as is meant here
        dcp.load(dict(into), storage_reader=_Reader(stored), no_dist=True)


class _Reader(dcp.StorageReader):
    """What `dcp.load` asks of a format."""

    def __init__(self, stored: Stored):
        self._stored = stored
        self._files: dict[MetadataIndex, Path] = {}

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        tensors: dict[str, Any] = {}
        for name, pieces in self._stored.pieces.items():
            chunks = [ChunkStorageMetadata(torch.Size(piece.offset), torch.Size(piece.shape)) for piece in pieces]
            size = torch.Size(self._stored.shape(name))
            tensors[name] = TensorStorageMetadata(TensorProperties(dtype=pieces[0].dtype), size, chunks)
            self._files |= {MetadataIndex(name, piece.offset): piece.path for piece in pieces}
        return Metadata(tensors)

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        files: dict[Path, list[ReadItem]] = {}
        for item in plan.items:
            files.setdefault(self._files[item.storage_index], []).append(item)
        for path, items in files.items():
            with safe_open(path, "pt") as opened:
                for item in items:
                    name = item.storage_index.fqn
                    ends = zip(item.storage_offsets, item.lengths, strict=True)
                    where = tuple(slice(begin, begin + length) for begin, length in ends)
                    piece = opened.get_slice(name)[where] if where else opened.get_tensor(name)
                    planner.commit_tensor(item, planner.resolve_tensor(item).detach().copy_(piece))
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False  # none is found by its name
