"""One training step traced on fake tensors: which bytes live beside weights and optimizer, and at the worst moment.

The step is the real one: the network, the method's loss, its backward pass, activation checkpointing and autocast run
as they do in training, and only the arithmetic is left out (torch's FakeTensorMode). On a CPU this is the CPU's step.
For a GPU, which the planning machine need not have, fake CPU tensors stand in, with two differences put right: CUDA's
autocast computes layer norms in float32, and attention is always the fused kernel, which keeps no N x N weights.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mcm.denoiser import Denoiser
from mcm.methods.consistency import Consistency, TeacherSteps
from mcm.methods.diffusion import Diffusion
from mcm.methods.interface import Batch, Draws, Method
from mcm.networks import uvit
from mcm.networks.presets import NetworkConfig, build
from mcm.planning.flops import Passes, image_shape
from mcm.planning.live import LiveBytes
from mcm.schedules import CosineSchedule

MethodName = Literal["diffusion", "ct", "cd", "guided"]
PASSES: dict[MethodName, Passes] = {
    "diffusion": Passes(1, 0),
    "ct": Passes(1, 1),
    "cd": Passes(1, 2),
    "guided": Passes(1, 3),
}

# What becomes of a gradient once it is there: kept until the step ends, added to those of the micro-batches before,
# or sent away at once to the device that holds that part of the weights (FSDP).
Gradients = Literal["kept", "added", "sent"]


@dataclass(frozen=True)
class Step:
    """A step of one device: `images` is its micro-batch."""

    network: NetworkConfig
    method: MethodName
    images: int
    bf16: bool = False
    recompute: bool = False
    gradients: Gradients = "kept"
    kind: Literal["cpu", "gpu"] = "gpu"


@dataclass(frozen=True)
class Traced:
    """Bytes at the moment of a step when most is alive, beside weights, optimizer, EMAs and teacher.

    `activations` are held for the backward pass (bf16 copies of the weights among them), `transient` is what one
    operation or one pass without graph needs for a while.
    """

    batch: int
    activations: int
    transient: int
    gradients: int

    @property
    def total(self) -> int:
        return self.batch + self.activations + self.transient + self.gradients


@functools.cache
def trace(step: Step) -> Traced:
    """Trace one step: shapes are real, and neither memory nor time is."""
    student, teacher = (_denoiser(step) for _ in range(2))
    method = consistency_or_diffusion(step.method, step.network, teacher)
    # Times are decided on the host, so these draws are real: evenly spread.
    uniform = torch.arange(step.images, dtype=torch.float64) / step.images
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as live, _fused_attention(step.kind):
        for denoiser in (student, teacher):
            materialize(denoiser, lambda weight: torch.empty_strided(weight.size(), weight.stride()))
        teacher.requires_grad_(False)
        parameters = list(student.parameters())
        live.count([*parameters, *teacher.parameters()], "state")
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(_keep_or_send(step, live))
        for _ in range(2 if step.gradients == "added" else 1):
            live.restart()
            with live.labelled("batch"):
                images = torch.empty(step.images, *image_shape(step.network))
                labels = torch.empty(step.images, dtype=torch.int64) if step.network.num_classes else None
                batch = Batch(images, labels)
                seeds = torch.empty(step.images, dtype=torch.int64)
                draws = Draws(torch.empty_like(images), uniform, uniform, uniform, seeds)
            with live.labelled("activations"):
                loss = method.loss(student, batch, draws, 0).sum()
            with live.labelled("transient"):
                loss.backward()
    at = live.peak
    return Traced(at["batch"], at["activations"], at["transient"], at["gradients"])


def build_on_meta(network: NetworkConfig, recompute: bool = False) -> nn.Module:
    """The network without memory: shapes and strides alone."""
    with torch.device("meta"):
        return build(network, recompute)


def materialize(module: nn.Module, make: Callable[[Tensor], Tensor]) -> None:
    """Replace every parameter by what `make` returns for it."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(make(parameter)))


def _denoiser(step: Step) -> Denoiser:
    network = build_on_meta(step.network, step.recompute)
    if step.bf16 and step.kind == "gpu":
        for part in network.modules():
            if isinstance(part, nn.LayerNorm):
                part.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))
    return Denoiser(network, step.bf16)


def consistency_or_diffusion(name: MethodName, network: NetworkConfig, teacher: Denoiser) -> Method:
    """A method by name, with numbers of the paper, none of which changes a shape."""
    schedule = CosineSchedule(64, 64, 64)
    if name == "diffusion":
        return Diffusion(schedule)
    return Consistency(
        schedule,
        student_steps=1,
        teacher_steps=TeacherSteps(64, 64, 0),
        teacher=None if name == "ct" else teacher.eval(),
        guidance=1.0 if name == "guided" else 0.0,
        null_label=network.num_classes,
        fixed_shapes=True,  # the most it can hold: a reference for every image
    )


def _keep_or_send(step: Step, live: LiveBytes) -> Callable[[Tensor], None]:
    def arrived(parameter: Tensor) -> None:
        if step.gradients == "sent":
            parameter.grad = None
        elif parameter.grad is not None:
            live.count([parameter.grad], "gradients")

    return arrived


@contextlib.contextmanager
def _fused_attention(kind: str) -> Iterator[None]:
    """A GPU's attention, on the CPU tensors that stand in for it."""
    limit = uvit.EXPLICIT_ATTENTION_LIMIT
    try:
        if kind == "gpu":
            uvit.EXPLICIT_ATTENTION_LIMIT = 0
        yield
    finally:
        uvit.EXPLICIT_ATTENTION_LIMIT = limit
