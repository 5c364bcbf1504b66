"""One loop for every method, on Lightning Fabric: fit, validate, stop early, checkpoint, resume (ours).

A method is an `nn.Module` with `loss(batch) -> dict` of scalar tensors, of which "total" is minimised, and
`evaluate(batch) -> dict[str, Mean]`, or other values that add up; a batch has `.to(device)`. It may have `lr_scales`,
learning rates of some of its parameters as a share of the configured one. A training dataset that has `lengths`, a
number a sample, gets samples of like length into one batch, so that little is padded.

A training that was killed goes on where its last checkpoint was and ends, on the CPU, with the same weights bit for
bit: the order of samples is a function of seed and epoch alone, the learning rate of the step alone, and the checkpoint
holds everything else. So a dataset draws its random numbers, if any, from torch, numpy or random, and in no worker.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from .checkpoints import (
    Interruption,
    State,
    Stopped,
    load_checkpoint,
    own_randomness,
    refuse_other_training,
    save_checkpoint,
)
from .files import hash_of
from .history import History
from .metrics import Mean
from .runs import Run, code_hash, machine
from .training_config import Data, TrainConfig

_WITHOUT_EFFECT = ("workers", "checkpoint_every_epochs", "checkpoint_every_s")
"""Of a configuration: the same weights come out whatever these are."""
RUN = 8
"""Batches whose samples are sorted by length together: few enough that every epoch mixes them anew."""


def fit(method: nn.Module, data: Data, config: TrainConfig, *, run: Run, progress: bool = True) -> History:
    """Trains `method` and leaves the weights of its best epoch in it and in the run's folder.

    Goes on from the run's checkpoint when there is one, and only loads the weights when the run is done. Ctrl-C waits
    for the step in progress and keeps its state; the next call goes on. Random generators are given back as they were.

    Args:
        method: the module, on any device; it is returned to that device in evaluation mode.
        data: training and validation split.
        config: how to train.
        run: the folder; one process at a time works on it, others wait.
        progress: whether to show a progress bar.

    Raises:
        ValueError: a loss without "total" or not finite, a monitored metric that the method does not report, a
            checkpoint that is damaged, no safetensors, or of another training.
        KeyboardInterrupt: Ctrl-C, after the state was saved.
    """
    training = {name: value for name, value in asdict(config).items() if name not in _WITHOUT_EFFECT}
    training |= {
        "method class": type(method).__name__,
        "train data": data.fingerprints[0],
        "val data": data.fingerprints[1],
    }
    with run.lock(progress=progress):
        if run.done:
            refuse_other_training(run.folder, run.info["training"], training)
            run.load_model(method)
            method.eval()
            return History.load(run.folder / "history.csv", best_epoch=run.info["best_epoch"])
        for abandoned in run.folder.glob(".*.safetensors"):
            abandoned.unlink()
        run.note(status="training", training=training, machine=machine(), code=code_hash())
        try:
            with own_randomness(config.seed), _threads(config.num_threads), _at_home(method):
                state = _train(method, data, config, run=run, training=training, progress=progress)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            with suppress(OSError):  # a full disk must not hide what happened
                run.note(status="stopped" if stopped else "failed", error=f"{type(error).__name__}: {error}")
            raise
        history = History(state.rows, best_epoch=state.best_epoch)
        run.save_model(method)
        run.save_metrics({name: value for name, value in history.best.items() if name.startswith("val/")})
        run.note(
            status="done", best_epoch=state.best_epoch, seconds=sum(row["seconds"] for row in state.rows), error=""
        )
        run.checkpoint_path.unlink(missing_ok=True)
        return history


def evaluate(
    method: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int = 64,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    progress: bool = True,
) -> dict[str, Mean]:
    """The method's metrics over a whole dataset, in evaluation mode and without gradients.

    Args:
        method: the module; its device and mode are left as they were.
        dataset: map-style, with `collate(items) -> batch`.
        batch_size: samples at a time; no influence on the result but by rounding.
        device: where to compute.
        progress: whether to show a progress bar.

    Returns:
        One mean per metric; nothing for an empty dataset.
    """
    where = _device(device)
    batches = _batches(torch.arange(len(dataset)), batch_size)
    with _at_home(method):
        method.to(where)
        with tqdm(total=len(batches), desc="evaluating", unit="batch", leave=False, disable=not progress) as bar:
            return _evaluate(method, dataset, batches, device=where, after_batch=bar.update)


def _train(
    method: nn.Module, data: Data, config: TrainConfig, *, run: Run, training: dict[str, Any], progress: bool
) -> State:
    from lightning_fabric import Fabric  # two seconds, and tensorboard: only a training pays them
    from torch.utils.tensorboard import SummaryWriter

    device = _device(config.device)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces each training's precision
    fabric = Fabric(accelerator=device.type, devices=1, precision=config.precision)
    optimiser = _optimiser(method, config)
    _, stepper = fabric.setup(method, optimiser)
    val_batches = _batches(torch.arange(len(data.val)), config.batch_size)
    steps = math.ceil(len(data.train) / config.batch_size)

    state = State()
    if run.checkpoint_path.exists():
        state = load_checkpoint(run.checkpoint_path, method=method, optimiser=optimiser, training=training)
    else:
        with own_randomness(config.seed):
            _check_monitor(_evaluate(method, data.val, val_batches[:1], device=device), config)

    def save() -> None:
        save_checkpoint(run.checkpoint_path, state, method=method, optimiser=optimiser, training=training)

    saved_at = time.monotonic()
    board = SummaryWriter(str(run.folder / "tensorboard"), purge_step=state.epoch + 1)
    bar = tqdm(total=config.epochs * steps, initial=state.epoch * steps + state.step, unit="step", disable=not progress)
    with board, bar, Interruption() as interruption:
        try:
            while state.epoch < config.epochs and not _out_of_patience(state, config):
                bar.set_description(f"{run.name}: epoch {state.epoch + 1}/{config.epochs}", refresh=False)
                remaining = _shuffled(data.train, config, epoch=state.epoch)[state.step :]
                method.train()
                started = time.monotonic() - state.seconds
                for batch, rows in zip(_load(data.train, remaining, config.workers), remaining, strict=True):
                    for group in optimiser.param_groups:
                        lr = learning_rate(state.epoch * steps + state.step, steps=steps, config=config)
                        group["lr"] = lr * group["scale"]
                    with fabric.autocast():
                        losses = method.loss(batch.to(device))
                    values = _checked(losses, epoch=state.epoch + 1, step=state.step + 1)
                    optimiser.zero_grad()
                    fabric.backward(losses["total"])
                    if config.clip_norm is not None:
                        fabric.clip_gradients(method, stepper, max_norm=config.clip_norm, error_if_nonfinite=False)
                    stepper.step()

                    state.step += 1
                    state.samples += len(rows)
                    for name, value in values.items():
                        state.sums[name] = state.sums.get(name, 0.0) + value * len(rows)
                    state.seconds = time.monotonic() - started
                    bar.set_postfix_str(_shown(state, config), refresh=False)
                    bar.update()
                    interruption.meet()
                    if time.monotonic() - saved_at > config.checkpoint_every_s:
                        save()
                        saved_at = time.monotonic()

                with own_randomness(config.seed):
                    found = _evaluate(method, data.val, val_batches, device=device, after_batch=interruption.meet)
                _check_monitor(found, config, epoch=state.epoch + 1)
                row = {
                    "epoch": state.epoch + 1,
                    "step": (state.epoch + 1) * steps,
                    "lr": learning_rate((state.epoch + 1) * steps - 1, steps=steps, config=config),
                }
                row |= {"seconds": time.monotonic() - started}
                row |= {f"loss/{name}": total / state.samples for name, total in state.sums.items()}
                row |= {f"val/{name}": mean.value for name, mean in found.items()}
                state.rows.append(row)
                if state.best_epoch == 0 or _better(row, state.rows[state.best_epoch - 1], config):
                    state.best_epoch = row["epoch"]
                    state.best_weights = {
                        name: value.detach().cpu().clone() for name, value in method.state_dict().items()
                    }
                state.epoch, state.step, state.samples, state.sums, state.seconds = row["epoch"], 0, 0, {}, 0.0
                History(state.rows, best_epoch=state.best_epoch).save(run.folder / "history.csv")
                for name in row.keys() - {"epoch", "step"}:
                    board.add_scalar(name, row[name], global_step=row["epoch"])
                bar.set_postfix_str(_shown(state, config), refresh=False)
                if config.checkpoint_every_epochs and state.epoch % config.checkpoint_every_epochs == 0:
                    save()
                    saved_at = time.monotonic()
        except Stopped:
            save()
            raise KeyboardInterrupt(
                f"stopped in epoch {state.epoch + 1} after step {state.step}; the same call goes on from there"
            ) from None
    method.load_state_dict(state.best_weights)
    return state


def learning_rate(step: int, *, steps: int, config: TrainConfig) -> float:
    """The learning rate of one step, counted from 0 over the whole training, with `steps` an epoch."""
    warmup, total = config.warmup_epochs * steps, config.epochs * steps
    if step < warmup:
        return config.lr * min(1.0, (step + 1) / warmup)
    done = (step - warmup) / max(1.0, total - warmup)
    return (
        config.lr
        * {"cosine": 0.5 + 0.5 * math.cos(math.pi * done), "linear": 1 - done, "constant": 1.0}[config.schedule]
    )


def _optimiser(method: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    learned = [parameter for parameter in method.parameters() if parameter.requires_grad]
    if not learned:
        raise ValueError(
            f"{type(method).__name__} has no parameter that requires a gradient: there is nothing to train"
        )
    scales = getattr(method, "lr_scales", {})
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for decayed in (True, False):
        for parameter in learned:
            if (parameter.ndim >= 2) == decayed:
                groups.setdefault((float(scales.get(parameter, 1.0)), decayed), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": members, "weight_decay": config.weight_decay if decayed else 0.0, "scale": scale}
            for (scale, decayed), members in groups.items()
        ],
        lr=config.lr,
    )


def _batches(order: Tensor, batch_size: int) -> list[list[int]]:
    """Spread evenly, so that no batch is left with the one sample that a batch norm cannot take."""
    return [rows.tolist() for rows in order.tensor_split(math.ceil(len(order) / batch_size))] if len(order) else []


def _shuffled(dataset: Dataset, config: TrainConfig, *, epoch: int) -> list[list[int]]:
    """The batches of an epoch, a function of seed and epoch alone.

    With `lengths`, the shuffled order is cut into runs of `RUN` batches, each run is sorted by length and cut again,
    and the batches are shuffled.
    """
    generator = _generator(config.seed, epoch)
    order = torch.randperm(len(dataset), generator=generator)
    batches = _batches(order, config.batch_size)
    lengths = getattr(dataset, "lengths", None)
    if lengths is None:
        return batches
    if len(lengths) != len(dataset):
        raise ValueError(f"the training split has {len(dataset)} samples and {len(lengths)} lengths")
    alike = []
    for first in range(0, len(batches), RUN):
        run = batches[first : first + RUN]
        # A stable sort, so that ties stay in their shuffled order.
        rows = iter(sorted((row for batch in run for row in batch), key=lambda row: lengths[row]))
        alike += [list(islice(rows, len(batch))) for batch in run]
    return [alike[i] for i in torch.randperm(len(alike), generator=generator)]


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(hash_of(seed, epoch, digits=15), 16))


def _load(dataset: Dataset, batches: list[list[int]], workers: int) -> Iterator[Any]:
    # A generator of its own, because a loader draws a seed from the global one whenever it is started.
    loader = DataLoader(
        dataset, batch_sampler=batches, collate_fn=dataset.collate, num_workers=workers, generator=torch.Generator()
    )
    return iter(loader)


@torch.no_grad()
def _evaluate(
    method: nn.Module,
    dataset: Dataset,
    batches: list[list[int]],
    *,
    device: torch.device,
    after_batch: Callable[[], Any] = lambda: None,
) -> dict[str, Mean]:
    found: dict[str, Mean] = {}
    was_training = method.training
    method.eval()
    try:
        for batch in _load(dataset, batches, 0):
            for name, mean in method.evaluate(batch.to(device)).items():
                found[name] = found.get(name, Mean()) + mean
            after_batch()
    finally:
        method.train(was_training)
    return found


def _checked(losses: dict[str, Tensor], *, epoch: int, step: int) -> dict[str, float]:
    if "total" not in losses:
        raise ValueError(f'loss(batch) has to return a "total" to minimise, it returned {sorted(losses)}')
    for name, value in losses.items():
        if value.numel() != 1:
            raise ValueError(
                f"loss term {name!r} has shape {tuple(value.shape)}, expected one number: take its mean or sum"
            )
    if not losses["total"].requires_grad:
        raise ValueError('the loss "total" depends on no parameter that is trained: is everything frozen or detached?')
    values = dict(
        zip(losses, torch.stack([v.detach().float().reshape(()) for v in losses.values()]).tolist(), strict=True)
    )
    if bad := [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]:
        raise ValueError(
            f"epoch {epoch}, step {step}: the loss is not finite ({', '.join(bad)}; all terms: {values}). "
            "Lower lr or clip_norm, or look for values in the batch that are not finite"
        )
    return values


def _check_monitor(found: dict[str, Mean], config: TrainConfig, *, epoch: int | None = None) -> None:
    if config.monitor not in found:
        raise ValueError(
            f"monitor is {config.monitor!r}, the method reports {', '.join(found) or 'nothing'}: choose one of them"
        )
    if epoch is not None and not math.isfinite(found[config.monitor].value):
        raise ValueError(
            f"epoch {epoch}: the monitored metric {config.monitor} is {found[config.monitor].value}, so no epoch can "
            "be chosen by it. Look at the method's evaluate and at the validation split"
        )


def _better(row: dict[str, int | float], best: dict[str, int | float], config: TrainConfig) -> bool:
    gain = row[f"val/{config.monitor}"] - best[f"val/{config.monitor}"]
    return gain > 0 if config.maximise else gain < 0


def _out_of_patience(state: State, config: TrainConfig) -> bool:
    return config.patience is not None and state.epoch - state.best_epoch >= config.patience


def _shown(state: State, config: TrainConfig) -> str:
    """The losses so far and the last validation's monitored metric, of every network that reports it."""
    shown = [f"{name} {total / state.samples:.4g}" for name, total in state.sums.items()]
    if state.rows:
        last, monitored = state.rows[-1], config.monitor.rpartition("/")[2]
        shown += [f"{name} {value:.3f}" for name, value in last.items() if name.rpartition("/")[2] == monitored]
        shown.append(f"best {state.rows[state.best_epoch - 1][f'val/{config.monitor}']:.3f}")
    return ", ".join(shown)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            'device is "cuda" and torch sees no GPU: use "auto" or "cpu", or install a torch build with CUDA'
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def _at_home(method: nn.Module) -> Iterator[None]:
    """Gives the method back on the device where it was."""
    home = next((tensor.device for tensor in method.state_dict().values()), torch.device("cpu"))
    try:
        yield
    finally:
        method.to(home)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
