"""Convolutions of one small frame, computed the quick way (ours).

PyTorch has two ways to convolve on the processor, oneDNN's and an older one, and takes the older one for a small map of
one frame, which is what a delta network's narrow layers are. On one thread oneDNN is up to twice as fast there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vkdlab.delta.folding import replace_module


class QuickConv2d(nn.Conv2d):
    """A convolution that always goes to oneDNN where that can be: float32 on the processor, without gradients.

    Args:
        conv: whose weights are shared, not copied.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
            conv.groups, conv.bias is not None, conv.padding_mode, device="meta",
        )  # fmt: skip
        self.weight, self.bias = conv.weight, conv.bias
        self.train(conv.training)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        quick = input.ndim == 4 and input.device.type == "cpu" and input.dtype == torch.float32
        if torch.is_grad_enabled() or not quick:
            return super()._conv_forward(input, weight, bias)
        return torch.mkldnn_convolution(input, weight, bias, self.padding, self.stride, self.dilation, self.groups)


def quicken(network: nn.Module) -> None:
    """Puts a `QuickConv2d` in place of every plain convolution, where oneDNN is there."""
    if not torch.backends.mkldnn.is_available():
        return
    for module in list(network.modules()):
        plain = type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)
        if plain and isinstance(module.weight, nn.Parameter) and module.weight.is_floating_point():
            replace_module(network, module, QuickConv2d(module))
