"""The model card that a teacher's run keeps beside its weights (ours)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from vkdlab import cost
from vkdlab.cards import model_card
from vkdlab.data import manifests
from vkdlab.data.grounding import GroundingDataset
from vkdlab.emtm.student_files import LICENCES
from vkdlab.emtm.teacher import GroundingTeacher
from vkdlab.files import write_text
from vkdlab.history import History
from vkdlab.student_files import CARD
from vkdlab.training import TrainConfig


def write_teacher_card(
    folder: Path,
    teacher: GroundingTeacher,
    *,
    family: str,
    train: GroundingDataset,
    history: History,
    training: TrainConfig,
) -> None:
    """Writes a teacher's model card into its run's folder.

    Args:
        folder: of the run.
        teacher: with the weights that are kept.
        family: shape of its answer.
        train: what it was trained on.
        history: of its training.
        training: how it was trained.
    """
    split = train.dataset
    first, last, _ = teacher.columns.indices(train.dim)
    seen = [name for name, (start, end) in train.columns.items() if start < last and end > first]
    terms = manifests.get(split.name).licence if split.name in manifests.names() else "yours, of your own videos"
    best = {name.removeprefix("val/"): value for name, value in history.best.items() if name.startswith("val/")}
    one = train.collate([train[0]])
    card = model_card(
        f"EMTM {family} teacher, trained on {split.name}",
        what="Finds the moment of a video that a sentence describes; a student is to learn from what it says "
        "(Liang et al., arXiv 2308.03725, as vkdlab builds it).",
        use="`emtm.train_teachers` with the same splits, recipe and seed loads it, as in `02_teacher_training`.",
        data={
            "data set": f"{split.name}, profile {split.profile}",
            "split": f"{split.split}, whole or without a fold",
            "size": f"{len(split.queries)} queries over {len(train.videos)} videos",
        },
        features={
            each.extractor: f"{each.dim} numbers every {each.stride_s:g} s; {each.input}"
            for each in train.manifests
            if each.extractor in seen
        },
        training=asdict(training) | {"kept epoch": history.best_epoch},
        metrics={name: best[name] for name in ("R1@0.3", "R1@0.5", "R1@0.7", "mIoU")},
        measured_on=f"the validation split of {split.name}, which chose the epoch",
        seeds=[training.seed],
        cost={
            "parameters": f"{cost.parameters(teacher) / 1e6:.3f} million",
            f"multiply-accumulates, {one.video.shape[1]} clips": f"{_macs(teacher, one) / 1e6:.1f} million",
        },
        licences={f"{split.name} (data)": terms}
        | {name: LICENCES.get(name, "not known here; ask its source") for name in (*seen, "minilm")},
        limits=[
            f"It knows the kind of video and sentence that {split.name} has; elsewhere it answers all the same.",
            "The metrics are those that chose its weights, and so a little too good.",
        ],
    )
    write_text(folder / CARD, card)


def _macs(teacher: GroundingTeacher, batch) -> int:
    device = next((parameter.device for parameter in teacher.parameters()), torch.device("cpu"))
    return cost.macs(teacher, batch.to(device))
