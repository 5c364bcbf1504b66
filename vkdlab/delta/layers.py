"""Layers that are computed on key frames, and whose change is predicted in between (Habibian et al., ECCV 2022).

    key frame:    z_0 = W x_0 + b
    afterwards:   z_t = z_0 + g(x_t - x_0)

W is the teacher, a convolution of the network that was converted. The student g is either full (a copy of W) or small:
a column and a row convolution with few channels between them, which start as the spatial SVD of W. One gate chooses.

Where we differ from the released code: students have no bias, so that what does not change is predicted not to change;
the branch is chosen at every call. A rank is at most that of the kernel. `DeltaBlock` is ours: the paper has students
of non-linear blocks, but neither their form nor their code was published.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vkdlab import cost
from vkdlab.delta.costs import Macs
from vkdlab.delta.state import current_pass

Policy = Literal["out", "min"]
POLICIES = ("out", "min")
INITIAL_LOGIT = -1.0
_FORWARDED = (
    "weight",
    "bias",
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)


def svd_rank(conv: nn.Conv2d, *, gamma: float | int, policy: Policy) -> int:
    """Channels between the two convolutions of the small student.

    Args:
        conv: n output channels and c input channels per group.
        gamma: how many times narrower, at least 1.
        policy: "out" gives floor(n / gamma) if n > gamma, else n; "min" gives floor(m / gamma) if m >= gamma, else m,
            with m the smaller one of input and output channels.

    Returns:
        At least one per group, a multiple of the groups, and no more than the kernel's rank.

    Raises:
        ValueError: a gamma below 1, or a policy that is none.
    """
    if not gamma >= 1:
        raise ValueError(f"gamma must be at least 1, got {gamma}")
    if policy not in POLICIES:
        raise ValueError(f"policy must be 'out' or 'min', got {policy!r}")
    out = conv.out_channels
    if policy == "out":
        rank = int(out // gamma) if out > gamma else out
    else:
        narrow = min(conv.in_channels, out)
        rank = int(narrow // gamma) if narrow >= gamma else narrow
    groups = conv.groups
    height, width = conv.kernel_size
    most = min(conv.in_channels // groups * height, out // groups * width)
    return min(max(rank // groups, 1), most) * groups


def spatial_svd(
    weight: Float[Tensor, "n c h w"], rank: int
) -> tuple[Float[Tensor, "r c h 1"], Float[Tensor, "n r 1 w"]]:
    """A column and a row kernel whose composition is the closest to `weight` that `rank` channels allow.

    Args:
        weight: of an ungrouped convolution.
        rank: r, between 1 and min(c h, n w).

    Raises:
        ValueError: a rank out of range, or weights that are not finite.
    """
    n, c, h, w = weight.shape
    if not 1 <= rank <= min(c * h, n * w):
        raise ValueError(f"a kernel of shape {(n, c, h, w)} has ranks 1 to {min(c * h, n * w)}, not {rank}")
    if not weight.isfinite().all():
        raise ValueError("the weights are not finite")
    matrix = weight.detach().float().permute(1, 2, 0, 3).reshape(c * h, n * w)
    left, scale, right = torch.linalg.svd(matrix, full_matrices=False)
    root = scale[:rank].sqrt()
    first = (left[:, :rank] * root).T.reshape(rank, c, h, 1)
    second = (root[:, None] * right[:rank]).reshape(rank, n, 1, w).transpose(0, 1)
    return first.to(weight.dtype).contiguous(), second.to(weight.dtype).contiguous()


class DeltaLayer(nn.Module):
    """What is computed on key frames and predicted in between. Which of the two is decided by the network's call.

    Attributes:
        name: of the layer in the network.
    """

    name: str = ""

    def dense(self, x: Tensor) -> Tensor:
        """The teacher."""
        raise NotImplementedError

    def key(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The teacher's output, and what has to be remembered of it; the output itself comes last."""
        raise NotImplementedError

    def delta(self, x: Tensor, cache: tuple[Tensor, ...], *, gate: Tensor | None = None) -> Tensor:
        """The output on another frame, from what was remembered."""
        raise NotImplementedError

    def macs_of(self, x: torch.Size, z: torch.Size) -> Macs:
        """Multiply-accumulates of one call, for an input and an output of these shapes."""
        raise NotImplementedError

    def deployed_macs_of(self, x: torch.Size, z: torch.Size) -> Macs:
        """The same of the form that runs, whichever student is chosen."""
        return self.macs_of(x, z)

    def forward(self, input: Tensor) -> Tensor:
        # Named as a convolution's is, for a network may call it by that name.
        return current_pass(self.name).through(self, input)

    def __getattr__(self, name: str):
        # A network may read its convolution's weight or stride; it then gets the teacher's.
        if name in _FORWARDED:
            return getattr(super().__getattr__("teacher"), name)
        return super().__getattr__(name)


class DeltaConv2d(DeltaLayer):
    """A convolution and its two students.

    Args:
        conv: the teacher; it is kept, not copied.
        rank: of the small student, as `svd_rank` gives it.
        padding: of the students, where the teacher pads in a way of its own; by default the teacher's.

    Attributes:
        teacher: the convolution.
        full: a copy without bias.
        small: a column convolution and a row convolution without biases. The first keeps the groups, the second has
            one group and starts with zeros between groups.
        gate_logit: above 0 the full student is taken, else the small one.

    Raises:
        ValueError: a rank that the kernel does not have, or that the groups do not divide.
    """

    def __init__(self, conv: nn.Conv2d, *, rank: int, padding: tuple[int, int] | str | None = None):
        super().__init__()
        groups = conv.groups
        if rank % groups:
            raise ValueError(f"a rank must be a multiple of the {groups} groups, got {rank}")
        self.teacher = conv
        self.full = copy.deepcopy(conv)
        self.full.register_parameter("bias", None)
        self.small = _pair(conv, rank, conv.padding if padding is None else padding)
        self.gate_logit = nn.Parameter(torch.tensor(INITIAL_LOGIT))
        first, second = self.small
        with torch.no_grad():
            second.weight.zero_()
            r, n = rank // groups, conv.out_channels // groups
            for group in range(groups):
                between, out = slice(group * r, (group + 1) * r), slice(group * n, (group + 1) * n)
                column, row = spatial_svd(conv.weight[out], r)
                first.weight[between] = column
                second.weight[out, between] = row

    @property
    def keeps_full(self) -> bool:
        """Whether the gate now stands for the full student."""
        return self.gate_logit.item() > 0

    @property
    def full_is_teacher(self) -> bool:
        """Whether the full student is still the teacher, which is exact and needs nothing remembered."""
        return torch.equal(self.full.weight, self.teacher.weight)

    @property
    def rank(self) -> int:
        """Channels of the small student."""
        return self.small[0].out_channels

    def lost_energy(self) -> float:
        """The share of the full kernel's energy that the small student lacks, 0 for one of full rank."""
        full = self.full.weight.detach().float()
        first, second = (conv.weight.detach().float() for conv in self.small)
        groups = self.teacher.groups
        r, n = self.rank // groups, full.shape[0] // groups
        lost = 0.0
        for group in range(groups):
            between, out = slice(group * r, (group + 1) * r), slice(group * n, (group + 1) * n)
            composed = torch.einsum("rch,nrw->nchw", first[between, :, :, 0], second[out, between, 0])
            lost += (full[out] - composed).square().sum().item()
        return lost / max(full.square().sum().item(), torch.finfo(torch.float32).tiny)

    def change(self, delta: Float[Tensor, "b c h w"], *, gate: Tensor | None = None) -> Float[Tensor, "b n h2 w2"]:
        """What a student makes of a change of the input.

        Args:
            delta: x_t - x_0.
            gate: 0 to 1, for a mixture of both students; None for the one that the gate chooses.
        """
        if gate is not None:
            return gate * self.full(delta) + (1 - gate) * self.small(delta)
        return self.full(delta) if self.keeps_full else self.small(delta)

    def dense(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h2 w2"]:
        return self.teacher(x)

    def key(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n h2 w2"], tuple[Tensor, ...]]:
        z = self.teacher(x)
        # Cloned because the network may change its own maps in place afterwards, as an in-place ReLU does.
        return z, (x.clone(), z.clone())

    def delta(
        self, x: Float[Tensor, "b c h w"], cache: tuple[Tensor, ...], *, gate: Tensor | None = None
    ) -> Float[Tensor, "b n h2 w2"]:
        x_0, z_0 = cache
        return z_0 + self.change(x - x_0, gate=gate)

    def macs_of(self, x: torch.Size, z: torch.Size) -> Macs:
        teacher = conv_macs(self.teacher, z)
        column, row, _ = self._small_macs(x, z)
        elementwise = x.numel() + z.numel()
        return Macs(teacher=teacher, key=teacher, full=teacher + elementwise, small=column + row + elementwise)

    def deployed_macs_of(self, x: torch.Size, z: torch.Size) -> Macs:
        teacher = conv_macs(self.teacher, z)
        column, row, between = self._small_macs(x, z)
        full = teacher if self.full_is_teacher else teacher + x.numel() + z.numel()
        return Macs(teacher=teacher, key=teacher, full=full, small=column + row + between + z.numel(), narrow=column)

    def _small_macs(self, x: torch.Size, z: torch.Size) -> tuple[int, int, int]:
        """Of the column convolution and of the row convolution, and elements between them."""
        between = torch.Size((x[0], self.rank, z[2], x[3]))
        return conv_macs(self.small[0], between), conv_macs(self.small[1], z), between.numel()

    def extra_repr(self) -> str:
        return f"rank={self.rank}"


class DeltaBlock(DeltaLayer):
    """A block with activations inside and a student that predicts the change of its output (ours).

        z_t = z_0 + g(x_t - x_0, x_0) - g(0, x_0)

    The change of a non-linear block depends on where it starts from, so the student sees x_0 as well. Without change of
    the input there is none of the output, whatever the student's weights are; an untrained student predicts none.

    Args:
        block: any module with one map as input and one as output; kept, not copied.
        in_channels: of the block.
        out_channels: of the block.
        stride: how many times smaller the output is.
        hidden: channels within the student.
        student: any other student of 2 `in_channels`, the change first; by default two 3x3 convolutions with a ReLU.
    """

    def __init__(
        self,
        block: nn.Module,
        *,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        hidden: int,
        student: nn.Module | None = None,
    ):
        super().__init__()
        self.teacher = block
        if student is None:
            last = nn.Conv2d(hidden, out_channels, 3, padding=1, bias=False)
            nn.init.zeros_(last.weight)
            first = nn.Conv2d(2 * in_channels, hidden, 3, stride, padding=1)
            student = nn.Sequential(first, nn.ReLU(inplace=True), last)
        self.student = student

    def dense(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h2 w2"]:
        return self.teacher(x)

    def key(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n h2 w2"], tuple[Tensor, ...]]:
        x_0 = x.clone()  # before the block, which may change it in place
        still = self.student(torch.cat([torch.zeros_like(x_0), x_0], 1))
        z = self.teacher(x)
        return z, (x_0, still, z.clone())

    def delta(
        self, x: Float[Tensor, "b c h w"], cache: tuple[Tensor, ...], *, gate: Tensor | None = None
    ) -> Float[Tensor, "b n h2 w2"]:
        x_0, still, z_0 = cache
        return z_0 + (self.student(torch.cat([x - x_0, x_0], 1)) - still)

    def macs_of(self, x: torch.Size, z: torch.Size) -> Macs:
        like = next(self.student.parameters())
        zeros = torch.zeros(x, dtype=like.dtype, device=like.device)
        teacher = cost.macs(self.teacher, zeros)
        student = cost.macs(self.student, torch.cat([zeros, zeros], 1))
        delta = student + x.numel() + 2 * z.numel()
        return Macs(teacher=teacher, key=teacher + student, full=delta, small=delta)


def conv_macs(conv: nn.Conv2d, output: torch.Size) -> int:
    """Multiply-accumulates of one convolution that gives this output."""
    return output.numel() * conv.weight[0].numel()


def pair_macs(conv: nn.Conv2d, rank: int) -> float:
    """Multiply-accumulates of the small student, as a share of the convolution's; of an even picture without border."""
    n, c, h, w = conv.weight.shape
    across = conv.stride[1]
    return (rank * c * h * across + n * rank * w) / (n * c * h * w)


def _pair(conv: nn.Conv2d, rank: int, padding: tuple[int, int] | str) -> nn.Sequential:
    (height, width), (down, across), (tall, wide) = conv.kernel_size, conv.stride, conv.dilation
    along, over = (padding, padding) if isinstance(padding, str) else ((padding[0], 0), (0, padding[1]))
    like = {"dtype": conv.weight.dtype, "device": conv.weight.device, "bias": False}
    mode = conv.padding_mode
    # fmt: off
    first = nn.Conv2d(
        conv.in_channels, rank, (height, 1), (down, 1), along, (tall, 1), conv.groups, padding_mode=mode, **like
    )
    second = nn.Conv2d(rank, conv.out_channels, (1, width), (1, across), over, (1, wide), padding_mode=mode, **like)
    # fmt: on
    return nn.Sequential(first, second)
