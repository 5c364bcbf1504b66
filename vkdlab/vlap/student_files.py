"""A trained VLAP student as files: all that it takes to ask it about a new video, and its model card (ours).

```
<folder>/
    student.safetensors    weights of the answerer, of the prompter, and of the encoder that glances
    student.json           sizes of the networks, how many frames are looked at and read, and how large they are
    README.md              the model card
```
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vkdlab import cost
from vkdlab.cards import model_card
from vkdlab.data import manifests
from vkdlab.data.encoders import SENTENCE_DIM
from vkdlab.student_files import SETTINGS as SETTINGS
from vkdlab.student_files import WEIGHTS, StudentFiles
from vkdlab.vlap.backbone import Prompt
from vkdlab.vlap.batches import QuestionDataset
from vkdlab.vlap.distill import Student
from vkdlab.vlap.mentions import Mentions
from vkdlab.vlap.networks import STRIDE, CompactBackbone, CompactConfig, FrameEncoder
from vkdlab.vlap.prompter import FramePrompter, ReleasedPrompter
from vkdlab.weights import load_tensors, put_weights, save_tensors

FILES = StudentFiles(
    what="student that answers questions",
    runs="vlap-*",
    train_one="Train one: vkdlab run 05_frame_selection",
    version=2,
    method="vlap",
)
BUILT_IN = "tabletop"
"""The world whose students know nothing else."""
_PROMPTERS = {"question-aware": FramePrompter, "as released": ReleasedPrompter}


@dataclass(frozen=True)
class SavedStudent:
    """A trained student and how it is to be shown a video; on the CPU and in evaluation mode."""

    student: Student
    """The answerer, a `CompactBackbone`, and the prompter."""
    glance: FrameEncoder
    """Tokens of thumbnails, for the prompter."""
    frames: int
    """T, frames of a video that are looked at; of a shorter one all."""
    thumbnail: tuple[int, int]
    """Width and height of frames that are glanced at, pixels."""
    data: str
    """The data set that it was trained on, and its profile."""
    folder: Path
    """Where its files lie."""

    @property
    def select(self) -> int:
        """S, frames that it was trained to read."""
        return self.student.select

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of frames that are read, pixels."""
        columns, rows = self.student.backbone.config.grid
        return columns * STRIDE, rows * STRIDE

    @property
    def knows_built_in_world_only(self) -> bool:
        """Whether all that it has ever seen was drawn by vkdlab."""
        return self.data.startswith(f"{BUILT_IN} ")


def save_student(
    folder: str | os.PathLike,
    student: Student,
    glance: FrameEncoder,
    *,
    frames: int,
    thumbnail: tuple[int, int],
    dataset: QuestionDataset,
    metrics: Mapping[str, float],
    measured_on: str = "",
    recipe: Mapping[str, Any],
) -> None:
    """Writes into a folder, of a run first of all, what `load_student` reads, and a model card.

    Args:
        folder: made where there is none; files of the same names are replaced.
        student: trained; left as it is.
        glance: what it was shown of thumbnails; left as it is.
        frames: T, frames of a video that were looked at.
        thumbnail: width and height of thumbnails, pixels.
        dataset: what it was trained on.
        metrics: name to share of 1, for the card.
        measured_on: what the metrics are of; by default the test split.
        recipe: how it was trained, for the card; "seed" is named as the metrics' seed.

    Raises:
        ValueError: its answerer is no `CompactBackbone`, its parts do not fit each other, or no metric is given.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    backbone = student.backbone
    if not isinstance(backbone, CompactBackbone):
        raise ValueError(
            f"a student is kept with its CompactBackbone, not with a {type(backbone).__name__}: that one is loaded "
            "from its own checkpoint"
        )
    settings = {
        "version": FILES.version,
        "method": FILES.method,
        "backbone": {
            "encoder": _encoder_sizes(backbone.encoder),
            "things": backbone.mentions.things,
            "keys": backbone.mentions.key.out_features,
            "always": len(backbone.always),
            "config": dataclasses.asdict(backbone.config),
        },
        "prompter": _prompter_sizes(student.prompter),
        "glance": _encoder_sizes(glance),
        "select": student.select,
        "frames": frames,
        "thumbnail": list(thumbnail),
        "data": f"{dataset.dataset.name} {dataset.dataset.profile}",
    }
    _built(settings)
    card = _card(student, glance, dataset=dataset, settings=settings, metrics=metrics, measured_on=measured_on,
                 recipe=recipe)  # fmt: skip
    save_tensors(folder / WEIGHTS, _together(student, glance).state_dict())
    FILES.complete(folder, settings, card=card)


def load_student(folder: str | os.PathLike) -> SavedStudent:
    """Reads what `save_student` wrote.

    Raises:
        FileNotFoundError: no such folder, or it holds no student.
        ValueError: a file is damaged, of another method or training, or of another version of vkdlab; the message says
            which.
    """
    folder = Path(folder)
    settings = FILES.read(folder)
    with FILES.explained(folder):
        student, glance = _built(settings)
        width, height = settings["thumbnail"]
        found = SavedStudent(student, glance, settings["frames"], (width, height), settings["data"], folder)
    together = _together(student, glance)
    put_weights(together, load_tensors(folder / WEIGHTS)[0], where=str(folder / WEIGHTS))
    together.eval().requires_grad_(False)
    return found


def latest_student(runs_dir: str | os.PathLike | None = None) -> Path:
    """Folder of the VLAP student that was trained last.

    Args:
        runs_dir: folder of all runs; by default in the cache.

    Raises:
        FileNotFoundError: no run of one has ended there.
    """
    return FILES.latest(runs_dir)


def _together(student: Student, glance: FrameEncoder) -> nn.ModuleDict:
    return nn.ModuleDict({"student": student, "glance": glance})


def _encoder_sizes(encoder: FrameEncoder) -> dict[str, int]:
    return {"width": encoder.width, "dim": encoder.dim}


def _prompter_sizes(prompter: FramePrompter | ReleasedPrompter) -> dict[str, Any]:
    if isinstance(prompter, ReleasedPrompter):
        tokens = prompter.score[0].in_features // (prompter.frames // prompter.select)
        sizes = {"frames": prompter.frames, "select": prompter.select, "noisy": prompter.noisy}
        return {"kind": "as released", "tokens": tokens, **sizes}
    return {
        "kind": "question-aware",
        "dim": prompter.dim,
        "question_dim": prompter.question_dim,
        "named": prompter.named,
        "grid": prompter.grid and list(prompter.grid),
        "hidden": prompter.seen.out_features,
        "heads": prompter.heads,
        "reach": prompter.reach,
        "question_aware": prompter.question_aware,
    }


def _built(settings: Mapping[str, Any]) -> tuple[Student, FrameEncoder]:
    """Networks with new weights.

    Raises:
        ValueError: they do not fit each other; and whatever settings that are not ours lead to.
    """
    with torch.random.fork_rng(devices=[]):
        parts, select, frames = settings["backbone"], settings["select"], settings["frames"]
        encoder, glance = FrameEncoder(**parts["encoder"]), FrameEncoder(**settings["glance"])
        mentions = Mentions(encoder.dim, things=parts["things"], hidden=parts["keys"])
        config = {name: tuple(value) if name == "grid" else value for name, value in parts["config"].items()}
        always = torch.zeros(parts["always"], encoder.dim)
        backbone = CompactBackbone(encoder, mentions, always=always, config=CompactConfig(**config))
        sizes = {name: tuple(value) if name == "grid" and value else value
                 for name, value in settings["prompter"].items()}  # fmt: skip
        prompter = _PROMPTERS[sizes.pop("kind")](**sizes)
    width, height = settings["thumbnail"]
    if min(width, height) < STRIDE or width % STRIDE or height % STRIDE:
        raise ValueError(f"width and height of thumbnails are multiples of {STRIDE}, got {width} and {height}")
    if not 1 <= select <= frames:
        raise ValueError(f"a student reads 1 frame to all that it looks at, got {select} of {frames}")
    cells = (width // STRIDE) * (height // STRIDE)
    if isinstance(prompter, ReleasedPrompter):
        given = {"tokens": cells, "frames": frames, "select": select}
    else:
        given = {"dim": glance.dim, "question_dim": backbone.question_dim}
        # Whoever looks up nothing that the question speaks of may do without its vectors, and without places.
        given |= {"named": backbone.named} if prompter.named else {}
        given |= {"grid": (width // STRIDE, height // STRIDE)} if prompter.grid else {}
    if wrong := [f"{name}={sizes[name]} where it is given {value}" for name, value in given.items()
                 if sizes[name] != value]:  # fmt: skip
        raise ValueError(f"the prompter was made for {', '.join(wrong)}")
    return Student(backbone, prompter, select=select), glance


def _card(
    student: Student,
    glance: FrameEncoder,
    *,
    dataset: QuestionDataset,
    settings: Mapping[str, Any],
    metrics: Mapping[str, float],
    measured_on: str,
    recipe: Mapping[str, Any],
) -> str:
    split = dataset.dataset
    name, select, frames = split.name, settings["select"], settings["frames"]
    columns, rows = settings["backbone"]["config"]["grid"]
    terms = manifests.get(name).licence if name in manifests.names() else "yours, of your own videos"
    videos = {row.video for row in dataset.questions}
    small = "x".join(map(str, settings["thumbnail"]))
    return model_card(
        f"VLAP student ({recipe.get('student', 'prompter')}), trained on {name}",
        what=f"Answers a multiple-choice question about a video. It glances at {frames} frames, chooses {select} by "
        "the question, and reads these (Wang et al., \"ViLA\", ECCV 2024, as vkdlab builds it).",
        use='```\nvkdlab ask VIDEO "What happens?" --options "this" "that" --student THIS_FOLDER\n```',
        data={
            "data set": f"{name}, profile {split.profile}",
            "split": f"{split.split}: {len(dataset)} questions about {len(videos)} videos",
            "left out": f"{dataset.left_out} questions, whose videos could not be decoded",
        },
        features={
            "pixels": f"RGB, {columns * STRIDE}x{rows * STRIDE} where frames are read, {small} where they are glanced "
            "at",
            "minilm": f"{SENTENCE_DIM} numbers a word piece, and as many of a whole question",
        },
        training={what: value if value not in ("", ()) else "–" for what, value in recipe.items()},
        metrics=metrics,
        measured_on=measured_on or f"the test split of {name}",
        seeds=[recipe.get("seed", 0)],
        cost=_cost(student, glance, dataset=dataset, settings=settings),
        licences={f"{name} (data)": terms, "minilm": "MiniLM weights: Apache-2.0"},
        limits=[
            f"It knows what {name} shows and how it is asked about there; elsewhere it answers all the same.",
            "It always takes one of the options, also where none is right, and its probabilities promise nothing.",
            f"Of each of {select} parts of the video it reads one frame: what the others show is only glanced at.",
            f"Frames are brought to {columns * STRIDE}x{rows * STRIDE} pixels, whatever their proportions: what is "
            "small in them is lost.",
            "Questions are English, have 2 to 5 options, and at most 63 word pieces.",
        ],
    )  # fmt: skip


def _cost(
    student: Student, glance: FrameEncoder, *, dataset: QuestionDataset, settings: Mapping[str, Any]
) -> dict[str, str]:
    student, glance = (copy.deepcopy(part).cpu().eval().requires_grad_(False) for part in (student, glance))
    backbone, select, frames = student.backbone, settings["select"], settings["frames"]
    row = dataset.questions[0]
    text = backbone.read([Prompt(row.question, tuple(row.options))])
    (width, height), (columns, rows) = settings["thumbnail"], backbone.config.grid
    thumbnails = torch.zeros(frames, height, width, 3, dtype=torch.uint8)
    pictures = torch.zeros(select, rows * STRIDE, columns * STRIDE, 3, dtype=torch.uint8)
    mask, places = torch.ones(1, select, dtype=torch.bool), torch.zeros(1, select)

    def choose() -> None:
        student.prompter(glance(thumbnails)[None], backbone.question(text), select=select)

    def read() -> None:
        backbone.score(backbone.look(backbone.see(pictures)[None], text, mask, places), text, mask)

    numbers = (cost.parameters(part) / 1e6 for part in (backbone, student.prompter, glance))
    answerer, prompter, glancing = (f"{millions:.3f} million" for millions in numbers)
    glanced, answered = (f"{cost.macs(step) / 1e6:.0f} million" for step in (choose, read))
    return {
        "parameters of the answerer, its frame encoder included": answerer,
        "parameters of the prompter": prompter,
        "parameters of the encoder that glances": glancing,
        f"multiply-accumulates of glancing at {frames} frames and choosing {select}": glanced,
        f"the same of reading {select} frames and answering, MiniLM not included": answered,
    }
