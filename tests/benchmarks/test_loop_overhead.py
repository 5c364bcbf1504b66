"""`fit` costs at most 5 % over the same training written as a bare PyTorch loop, to the same weights."""

import itertools
import statistics
import time

import torch
from torch import nn

from tests.tiny import Pairs
from vkdlab.files import hash_of
from vkdlab.metrics import Mean
from vkdlab.runs import Run
from vkdlab.training import Data, TrainConfig, fit, learning_rate

from .records import Figure, record

ROUNDS = 7
LIMIT = 0.05
EPOCHS, BATCH, DIM = 2, 32, 96


def sequences(n, *, seed):
    """Random sequences of 48 clips, labelled by the clip with the greatest sum."""
    x = torch.randn(n, 48, DIM, generator=torch.Generator().manual_seed(seed))
    return Pairs(x, x.sum(dim=-1).argmax(dim=-1), fingerprint=f"sequences-{n}-{seed}")


class Pointer(nn.Module):
    """A two-layer transformer that points at a clip: the size of a small student."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(DIM, 4, 2 * DIM, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(DIM, 1)

    def loss(self, batch):
        return {"total": nn.functional.cross_entropy(self.head(self.encoder(batch.x)).squeeze(-1), batch.y)}

    def evaluate(self, batch):
        return {"accuracy": Mean.of(self.head(self.encoder(batch.x)).squeeze(-1).argmax(dim=-1) == batch.y)}


def bare_loop(method, train, val, config):
    """The same training as a person would write it: no progress, no logs, no checkpoints, best weights in memory."""
    decayed = [p for p in method.parameters() if p.ndim >= 2]
    others = [p for p in method.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=config.lr)
    torch.manual_seed(config.seed)
    steps, best, best_weights = len(train) // BATCH, -1.0, None
    for epoch in range(config.epochs):
        method.train()
        generator = torch.Generator().manual_seed(int(hash_of(config.seed, epoch, digits=15), 16))
        order = torch.randperm(len(train), generator=generator)
        for step, rows in enumerate(order.split(BATCH)):
            batch = train.collate([train[row] for row in rows.tolist()])
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(epoch * steps + step, steps=steps, config=config)
            optimiser.zero_grad()
            loss = method.loss(batch)["total"]
            loss.backward()
            nn.utils.clip_grad_norm_([*decayed, *others], config.clip_norm)
            optimiser.step()
            if not torch.isfinite(loss):
                raise ValueError("the loss is not finite")
        method.eval()
        with torch.no_grad():
            rows = torch.arange(len(val)).split(BATCH)
            right = [method.evaluate(val.collate([val[row] for row in part.tolist()]))["accuracy"] for part in rows]
        if sum(right, Mean()).value > best:
            best = sum(right, Mean()).value
            best_weights = {name: value.clone() for name, value in method.state_dict().items()}
    method.load_state_dict(best_weights)


def test_the_loop_costs_at_most_five_percent_over_a_bare_one(tmp_path):
    train, val = sequences(24 * BATCH, seed=1), sequences(4 * BATCH, seed=2)
    data = Data(train, val)
    config = TrainConfig(
        epochs=EPOCHS, batch_size=BATCH, monitor="accuracy", device="cpu", checkpoint_every_epochs=0, seed=0
    )
    saving = TrainConfig(epochs=EPOCHS, batch_size=BATCH, monitor="accuracy", device="cpu", seed=0)
    number = itertools.count()

    def through_fit(method, config):
        run = Run.open(f"run{next(number)}", {}, data="", runs_dir=tmp_path)
        fit(method, data, config, run=run)

    ways = {
        "bare": lambda method: bare_loop(method, train, val, config),
        "fit": lambda method: through_fit(method, config),
        "fit, a checkpoint an epoch": lambda method: through_fit(method, saving),
    }
    wall, cpu = {name: [] for name in ways}, {name: [] for name in ways}
    weights = {}
    for round_ in range(ROUNDS + 1):
        shift = round_ % len(ways)
        for name in list(ways)[shift:] + list(ways)[:shift]:
            torch.manual_seed(0)
            method = Pointer()
            started, cpu_started = time.perf_counter(), time.process_time()
            ways[name](method)
            if round_ > 0:
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - cpu_started)
            weights[name] = method.state_dict()
    for name in ways:
        assert all(torch.equal(weights["bare"][key], weights[name][key]) for key in weights["bare"]), name

    def overhead(times, name):
        return statistics.median(b / a for a, b in zip(times["bare"], times[name], strict=True)) - 1

    figures = [
        Figure(f"{name}, {clock} time", 1 + overhead(times, name), 1 + LIMIT, "x")
        for name in list(ways)[1:]
        for clock, times in (("processor", cpu), ("waiting", wall))
    ]
    record(
        "loop_overhead",
        what="a training through `vkdlab.training.fit` against the same as a bare loop: median of rounds in turns",
        figures=figures,
        rounds=ROUNDS,
        step_s=statistics.median(wall["bare"]) / (EPOCHS * len(train) / BATCH),
        step_cpu_s=statistics.median(cpu["bare"]) / (EPOCHS * len(train) / BATCH),
        training_s=statistics.median(wall["bare"]),
        overhead_fastest={name: min(wall[name]) / min(wall["bare"]) - 1 for name in list(ways)[1:]},
    )
    # Processor time is held to the limit, because other processes on the machine move it least.
    assert max(figure.value for figure in figures if "processor" in figure.name) <= 1 + LIMIT, figures
