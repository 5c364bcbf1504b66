"""A method and data small enough to train in a second; dropout and batch norm make random states and buffers count."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from vkdlab.metrics import Mean
from vkdlab.runs import Run
from vkdlab.training import Data, TrainConfig, fit


@dataclass
class Batch:
    x: torch.Tensor
    y: torch.Tensor

    def to(self, device):
        return Batch(self.x.to(device), self.y.to(device))


class Pairs(torch.utils.data.Dataset):
    """Inputs with a label each."""

    def __init__(self, x, y, *, fingerprint):
        self.x, self.y, self.fingerprint = x, y, fingerprint

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]

    def collate(self, items):
        return Batch(*(torch.stack(parts) for parts in zip(*items, strict=True)))


class Points(Pairs):
    """Points of the plane, labelled by the sign of their product."""

    def __init__(self, n, *, seed):
        x = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
        super().__init__(x, (x.prod(dim=1) > 0).long(), fingerprint=f"points-{n}-{seed}")


class Classifier(nn.Module):
    """A network with dropout, batch norm and an unused parameter; `pause_s` makes steps slow enough to be killed."""

    def __init__(self, *, width=16, pause_s=0.0):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 2)
        )
        self.unused = nn.Parameter(torch.ones(3, 3))
        self.pause_s = pause_s

    def loss(self, batch):
        time.sleep(self.pause_s)
        logits = self.net(batch.x)
        return {
            "total": nn.functional.cross_entropy(logits, batch.y) + 1e-3 * logits.square().mean(),
            "size": logits.square().mean(),
        }

    def evaluate(self, batch):
        right = self.net(batch.x).argmax(dim=1) == batch.y
        return {"accuracy": Mean.of(right), "teacher/accuracy": Mean.of(torch.ones_like(right))}


def classifier(*, seed=0, **options):
    torch.manual_seed(seed)
    return Classifier(**options)


CONFIG = {"epochs": 4, "batch_size": 16, "lr": 0.02, "monitor": "accuracy", "device": "cpu"}


def points():
    return Data(Points(100, seed=1), Points(40, seed=2))


def open_run(folder, name="tiny"):
    return Run.open(name, {}, data="", runs_dir=folder)


def train(folder, *, method=None, **changes):
    method = method or classifier()
    history = fit(method, points(), TrainConfig(**CONFIG | changes), run=open_run(folder), progress=False)
    return method, history


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without_times(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
