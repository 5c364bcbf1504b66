"""Networks that the tests convert, each with a trick of its own."""

import torch
from torch import nn


def randomise(model: nn.Module) -> nn.Module:
    """Weights that matter and batch norms that have seen something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def video(frames=6, *, size=(24, 32), batch=1, move=0.1):
    """A random picture that changes a little from frame to frame."""
    frame = torch.rand(batch, 3, *size)
    shown = []
    for _ in range(frames):
        shown.append(frame)
        frame = frame + move * torch.randn_like(frame)
    return shown


def _twice(i, o):
    return nn.Sequential(
        nn.Conv2d(i, o, 3, padding=1, bias=False),
        nn.BatchNorm2d(o),
        nn.ReLU(inplace=True),
        nn.Conv2d(o, o, 3, padding=1, bias=False),
        nn.BatchNorm2d(o),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    def __init__(self, width=8, classes=5):
        super().__init__()
        self.down1, self.down2 = _twice(3, width), _twice(width, 2 * width)
        self.up1 = _twice(3 * width, width)
        self.out = nn.Conv2d(width, classes, 1)
        self.pool, self.grow = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)

    def forward(self, x):
        fine = self.down1(x)
        coarse = self.down2(self.pool(fine))
        return self.out(self.up1(torch.cat([self.grow(coarse), fine], 1)))


class Residual(nn.Module):
    """Blocks with an in-place addition and an in-place ReLU, a stride and a shortcut."""

    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.block1 = ResidualBlock(width, width, 1)
        self.block2 = ResidualBlock(width, 2 * width, 2)
        self.head = nn.Linear(2 * width, 7)

    def forward(self, x):
        return self.head(self.block2(self.block1(self.stem(x))).mean((2, 3)))


class ResidualBlock(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(o)
        self.shortcut = nn.Conv2d(i, o, 3, stride, 1) if i != o else nn.Identity()

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu_()))
        y += self.shortcut(x)
        return y.relu_()


class Chain(nn.Module):
    """Convolutions one after the other; the middle ones are converted."""

    def __init__(self, *middle, width=8, out=4):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.middle = nn.Sequential(*middle)
        self.last = nn.Conv2d(width, out, 1)

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


def assert_near(ours, theirs, tolerance=1e-5):
    """The same up to rounding."""
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=tolerance)


def with_full_students(network, *, value=1.0):
    """The network with all gates set, above 0 for full students."""
    for parameter in network.gate_parameters():
        nn.init.constant_(parameter, value)
    return network
