"""One network on several devices: each holds all of it (DistributedDataParallel), or each a part of it (FSDP2)."""

import contextlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mcm.compiled import compiled
from mcm.errors import UserError
from mcm.training.config import TrainingConfig
from mcm.training.distributed import Processes
from mcm.training.sharded import is_part


def parallelize(network: nn.Module, config: TrainingConfig, processes: Processes) -> nn.Module:
    """The network as the methods call it, on this process's device, sharing `network`'s parameters.

    Before the optimizer is made: in parts (`parallel: fsdp`), each parameter gives way to this process's part of it, a
    DTensor of the same name. Frozen networks, as a teacher is, have no gradients to agree about.
    """
    if config.parallel == "fsdp" and processes.world_size > 1:
        if not processes.kind.shards:
            raise UserError(f"parallel: fsdp is not for devices of type '{processes.device.type}'; set it to ddp")
        return _in_parts(network, config, processes)
    call = network.to(processes.device)
    if config.compile and processes.kind.compiles:
        call = compiled(call)
    if processes.world_size > 1 and any(value.requires_grad for value in network.parameters()):
        ids = [processes.device.index] if processes.device.type == "cuda" else None
        call = DistributedDataParallel(call, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)
    return call


def _in_parts(network: nn.Module, config: TrainingConfig, processes: Processes) -> nn.Module:
    """Shard each block and what is around them; a device holds the weights of one or two blocks at a time.

    A block is what a network keeps in a list and has layers of its own.

    The weights that are kept, their gradients' sum and the update are float32. In bf16, autocast would cast the weights
    of a block's layers for each use; here they are cast before they are sent, which gives the same bits for half of the
    traffic. What autocast leaves in float32, such as norms, is sent as it is, with what is around the blocks.
    """
    from torch.distributed.device_mesh import init_device_mesh  # late: most of a second, for this alone
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(processes.device.type, (processes.world_size,))
    for value in network.parameters():
        value.data = value.data.contiguous()  # FSDP2 takes no other layout
    blocks = []
    for parent in [module for module in network.modules() if isinstance(module, nn.ModuleList)]:
        for name, module in parent.named_children():
            if any(True for _ in module.children()) and not isinstance(module, nn.ModuleList):
                if config.compile:  # one by one: gathering weights is no part of a compiled program
                    parent.register_module(name, compiled(module))
                blocks.append(parent.get_submodule(name))
    policy, uncast = MixedPrecisionPolicy(), nn.ModuleList()
    if config.precision == "bf16":
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        uncast.extend(module for block in blocks for module in block.modules() if _is_uncast(module))
    for block in blocks:
        fully_shard(
            block,
            mesh=mesh,
            mp_policy=policy,
            reshard_after_forward=True,
            ignored_params=set(uncast.parameters()),
        )
    # Reached by another name, they are taken for what is around the blocks.
    network.register_module("uncast", uncast)
    # Given back after each evaluation, so that changed weights (a preview's) are never overlooked.
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    del network.uncast
    return network


def _is_uncast(module: nn.Module) -> bool:
    owns = any(True for _ in module.parameters(recurse=False))
    return owns and not isinstance(module, nn.Linear | nn.Conv2d)


def in_parts(network: nn.Module) -> bool:
    """Whether processes share the network by parts: then all of them evaluate it, and equally often."""
    return hasattr(network, "set_requires_gradient_sync")  # which FSDP2 gives it


def synchronized(call: nn.Module, now: bool) -> contextlib.AbstractContextManager[None]:
    """A backward pass in it adds to the gradients of this process, which all processes average where `now` is true."""
    if in_parts(call):
        call.set_requires_gradient_sync(now)  # type: ignore[operator]
    elif isinstance(call, DistributedDataParallel) and not now:
        return call.no_sync()
    return contextlib.nullcontext()


def clip_gradients(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """Scale the gradients to a norm of at most `limit`; the norm that they had, on the device, everywhere alike."""
    norm = nn.utils.clip_grad_norm_(parameters, limit)
    return norm.full_tensor() if is_part(norm) else norm  # type: ignore[attr-defined]


def gathered(tensors: Mapping[str, Tensor], processes: Processes) -> dict[str, Tensor]:
    """Whole tensors. Those in parts meet one after another in the leading process's host memory: a collective call."""
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if not is_part(value):
            found[name] = value.detach()
            continue
        full = value.detach().full_tensor()  # type: ignore[attr-defined]
        if processes.leads:
            found[name] = full.cpu()
    return found
