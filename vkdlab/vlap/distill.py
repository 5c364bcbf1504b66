"""VLAP: a prompter chooses S of T frames, an answerer reads them, a teacher reads all (Wang et al., "ViLA", ECCV 2024).

    L = cross-entropy(score(x), right option) + weight MSE(D(x), the teacher's look(all frames)),  x = look(chosen ones)

The QFormer-Distiller (section 2.4 of the paper) maps the student's S q tokens to the teacher's T q ones, each channel
by itself: D = LayerNorm(FC(.)), both along the token axis. The teacher was trained before on all frames, is frozen and
in evaluation mode. The weight is 1 as in the paper; the released code has 0.01.

Where we differ from the paper: the prompter sees the question and is quiet at inference (`vkdlab.vlap.prompter`), the
temperature reaches its end, and frames that only pad a video have no part in the MSE.

`Config.released` gives the released code: there the teacher that was loaded is never called. Its place is taken by the
student itself, on all frames and without gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn
from torch.nn import functional

from vkdlab.metrics import Mean
from vkdlab.vlap.answerer import Answer, accuracies, look
from vkdlab.vlap.backbone import Backbone, Text
from vkdlab.vlap.batches import QuestionBatch
from vkdlab.vlap.prompter import FramePrompter, ReleasedPrompter, Selection, temperature_at


@dataclass(frozen=True)
class Config:
    """How many frames are read, and what is learned from whom."""

    select: int = 4
    """S, frames that the student reads."""
    frames: int = 32
    """T, frames that the teacher reads; a video may have fewer."""
    distillation: float | int = 1.0
    """Weight of the tokens' error, 0 or more (paper: 1, released code: 0.01)."""
    first_temperature: float | int = 1.0
    """Of the choice, at the first step."""
    last_temperature: float | int = 0.1
    """At the last step; it falls exponentially in between."""
    backbone_lr: float | int = 1.0
    """Learning rate of the answerer as a share of the prompter's and decoder's, above 0."""
    as_released: bool = False
    """Whether the student stands in for its teacher."""

    def __post_init__(self):
        if not 1 <= self.select <= self.frames:
            raise ValueError(f"select is 1 to frames, got select={self.select}, frames={self.frames}")
        if not 0 <= self.distillation < float("inf"):
            raise ValueError(f"distillation is a finite weight, 0 or more, got {self.distillation}")
        if not 0 < self.last_temperature <= self.first_temperature < float("inf"):
            raise ValueError(
                "temperatures are finite and above 0, and the last is not above the first, got "
                f"first_temperature={self.first_temperature}, last_temperature={self.last_temperature}"
            )
        if not 0 < self.backbone_lr < float("inf"):
            raise ValueError(
                f"backbone_lr is above 0, got {self.backbone_lr}: to keep the answerer as it is, give "
                "backbone.requires_grad_(False)"
            )

    @classmethod
    def released(cls, *, select: int = 4, frames: int = 32) -> Config:
        """The released code: its weight, its temperature, which 10 of 50 epochs bring to 0.40, and its teacher."""
        return cls(
            select=select, frames=frames, distillation=0.01, last_temperature=0.01 ** (10 / 50), as_released=True
        )


@dataclass(frozen=True, eq=False)
class Inspection:
    """How frames of a batch were chosen and what was answered; t frames, of which s are read."""

    mask: Bool[Tensor, "b t"]
    """True on frames."""
    places: Float[Tensor, "b t"]
    """Where in its video each frame is, 0 to 1."""
    scores: Float[Tensor, "b t"]
    """What the prompter gives a frame, logits within segments; -inf where a video has no frame."""
    probs: Float[Tensor, "b s t"]
    """Of each segment's frames; 0 outside the segment."""
    entropy: Float[Tensor, "b s"]
    """Of `probs`, nats: 0 where the choice is sure."""
    indices: Int[Tensor, "b s"]
    """Numbers of the chosen frames, ascending; 0 where `chosen` is False."""
    chosen: Bool[Tensor, "b s"]
    """False where a segment has no frame."""
    option_probs: Float[Tensor, "b o"]
    """Of the options; 0 where a question has no such option."""
    answers: Int64[Tensor, " b"]
    """Index of the right option."""
    evidence: Float[Tensor, "b 2"]
    """Start and end of what answers the question, as shares of the video; nan where it is not known."""


class Student(nn.Module):
    """All that is needed at inference: a prompter that chooses frames and a backbone that answers from them.

    Args:
        backbone: the answerer.
        prompter: chooses frames by their glances.
        select: S, frames that are read unless another number is asked for.
    """

    def __init__(self, backbone: Backbone, prompter: FramePrompter | ReleasedPrompter, *, select: int):
        super().__init__()
        self.backbone, self.prompter, self.select = backbone, prompter, select

    def forward(self, batch: QuestionBatch, *, select: int | None = None, selection: Selection | None = None) -> Answer:
        """Answers questions.

        Args:
            batch: questions and all frames.
            select: how many frames to read; by default the student's number.
            selection: frames to read in place of those that the prompter would choose.

        Raises:
            ValueError: both are given, or a selection is of another batch.
        """
        text = self.backbone.read(batch.prompts)
        if selection is None:
            selection = self.choose(batch, text, select=select)
        elif select is not None:
            raise ValueError(f"frames are chosen already: give select={select} or a selection, not both")
        elif selection.picks.shape[::2] != batch.mask.shape:
            raise ValueError(
                f"the selection is of {tuple(selection.picks.shape[::2])} videos and frames, the batch has "
                f"{tuple(batch.mask.shape)}"
            )
        visual = look(self.backbone, batch, selection, text)
        return Answer(self.backbone.score(visual, text, selection.mask), selection)

    def choose(
        self, batch: QuestionBatch, text: Text, *, select: int | None = None, temperature: float = 1.0
    ) -> Selection:
        """The prompter's choice for questions that were read; in training mode with noise.

        Args:
            batch: questions and all frames.
            text: what the backbone read of `batch.prompts`.
            select: how many frames to choose; by default the student's number.
            temperature: of the softmax whose gradient is used.
        """
        select = self.select if select is None else select
        question = self.backbone.question(text)
        return self.prompter(batch.glances, question, select=select, mask=batch.mask, temperature=temperature)


class VLAP(nn.Module):
    """A student and how it is trained, as `vkdlab.training.fit` takes it; monitor "accuracy".

    Args:
        backbone: the student's answerer; used, not copied.
        prompter: chooses frames.
        config: of the losses.
        teacher: an answerer that was trained on all frames. Without one nothing is distilled; as released it is
            accepted, and never called.
        steps: of the whole training, over which the temperature falls; only needed to train.

    Attributes:
        student: the answerer and the prompter.
        teacher: frozen; None without, and as released.
        decoder: from the student's tokens to the teacher's; None where nothing is distilled.

    Raises:
        ValueError: teacher and student are one module or differ in the sizes of their tokens; as released, the
            prompter is not the released one with its noise.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompter: FramePrompter | ReleasedPrompter,
        *,
        config: Config,
        teacher: Backbone | None = None,
        steps: int | None = None,
    ):
        super().__init__()
        if steps is not None and steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if config.as_released and not (isinstance(prompter, ReleasedPrompter) and prompter.noisy):
            noisy = f"(noisy={prompter.noisy})" if isinstance(prompter, ReleasedPrompter) else ""
            raise ValueError(
                "as released, frames are chosen without the question and with noise: expected a ReleasedPrompter with "
                f"noisy=True, got a {type(prompter).__name__}{noisy}. For other prompters take a config that is not "
                "as_released"
            )
        if teacher is backbone:
            raise ValueError("the teacher is the student's own backbone: give another one, trained on all frames")
        self.student = Student(backbone, prompter, select=config.select)
        self.teacher = None if config.as_released else teacher
        self.config, self.steps = config, steps
        self.decoder = None
        if self.teacher is not None:
            sizes = [(each.frame_dim, each.frame_tokens, each.visual_dim) for each in (teacher, backbone)]
            if sizes[0] != sizes[1]:
                raise ValueError(
                    "teacher and student see the same tokens and make query tokens of one size, got (frame_dim, "
                    f"frame_tokens, visual_dim) of {sizes[0]} and {sizes[1]}"
                )
            self.teacher.requires_grad_(False)
        if config.distillation and (self.teacher is not None or config.as_released):
            queries = backbone.queries if self.teacher is None else teacher.queries
            self.decoder = TokenDecoder(config.select * backbone.queries, out=config.frames * queries)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.train(self.training)

    @property
    def lr_scales(self) -> dict[nn.Parameter, float]:
        """Learning rates of the answerer's parameters, as a share of all others'."""
        return dict.fromkeys(self.student.backbone.parameters(), float(self.config.backbone_lr))

    @property
    def temperature(self) -> float:
        """Of the choice at the step that comes next; at the last one it is the configured last."""
        config = self.config
        if config.first_temperature == config.last_temperature:
            return float(config.last_temperature)
        if self.steps is None:
            raise ValueError("steps is needed to know how far the temperature has fallen: give VLAP(..., steps=...)")
        progress = self.step.item() / max(1, self.steps - 1)
        return temperature_at(progress, first=config.first_temperature, last=config.last_temperature)

    def train(self, mode: bool = True) -> VLAP:
        """Sets the mode of all that learns; the teacher stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, batch: QuestionBatch, *, select: int | None = None, selection: Selection | None = None) -> Answer:
        """The student's answer; see `Student.forward`."""
        return self.student(batch, select=select, selection=selection)

    def loss(self, batch: QuestionBatch) -> dict[str, Float[Tensor, ""]]:
        """The terms of the loss and their sum.

        Returns:
            "total", "answer", and "distillation" where something is distilled. In training mode the step counts.

        Raises:
            ValueError: `steps` is missing, or a video has more frames than `Config.frames`.
        """
        backbone = self.student.backbone
        text = backbone.read(batch.prompts)
        selection = self.student.choose(batch, text, temperature=self.temperature)
        visual = look(backbone, batch, selection, text)
        logits = backbone.score(visual, text, selection.mask)
        total = answer = functional.cross_entropy(logits.float(), batch.answers)
        losses = {"answer": answer}
        if self.decoder is not None:
            losses["distillation"] = self._distillation(batch, visual, text)
            total = total + self.config.distillation * losses["distillation"]
        if self.training:
            self.step += 1
        return {"total": total, **losses}

    def _distillation(self, batch: QuestionBatch, visual: Tensor, text: Text) -> Float[Tensor, ""]:
        frames = batch.mask.shape[1]
        if frames > self.config.frames:
            raise ValueError(
                f"the decoder was made for {self.config.frames} frames, the batch has {frames}: give "
                "Config(frames=...) the number of frames that the store has"
            )
        with torch.no_grad():
            teacher = self.student.backbone if self.teacher is None else self.teacher
            text = text if self.teacher is None else teacher.read(batch.prompts)
            target = teacher.look(batch.tokens, text, batch.mask, batch.places)  # (b, t, q, e)
        decoded = self.decoder(visual.flatten(1, 2)).unflatten(1, (self.config.frames, -1))
        return masked_mse(decoded[:, :frames], target, batch.mask)

    @torch.no_grad()
    def evaluate(self, batch: QuestionBatch) -> dict[str, Mean]:
        """The student's accuracy, "accuracy", and that of each kind of questions, "accuracy KIND"."""
        return accuracies(self(batch).logits, batch)

    @torch.no_grad()
    def inspect(self, batch: QuestionBatch, *, select: int | None = None) -> Inspection:
        """What the student chooses and answers, in evaluation mode; nothing is changed by looking.

        Args:
            batch: questions and all frames.
            select: how many frames to choose; by default as configured.
        """
        was_training = self.training
        self.eval()
        try:
            answer = self(batch, select=select)
        finally:
            self.train(was_training)
        selection = answer.selection
        return Inspection(
            mask=batch.mask,
            places=batch.places,
            scores=selection.scores,
            probs=selection.probs,
            entropy=selection.entropy,
            indices=selection.indices,
            chosen=selection.mask,
            option_probs=answer.probs,
            answers=batch.answers,
            evidence=batch.evidence,
        )


class TokenDecoder(nn.Module):
    """Tokens of few frames to tokens of many: LayerNorm(FC(.)) along the token axis, the same for every channel.

    Args:
        tokens: m, tokens that come in.
        out: m2, tokens that go out.
    """

    def __init__(self, tokens: int, *, out: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(tokens, out), nn.LayerNorm(out))

    def forward(self, visual: Float[Tensor, "b m e"]) -> Float[Tensor, "b m2 e"]:
        return self.layers(visual.transpose(1, 2)).transpose(1, 2)


def masked_mse(
    given: Float[Tensor, "b t q e"], target: Float[Tensor, "b t q e"], mask: Bool[Tensor, "b t"]
) -> Float[Tensor, ""]:
    """Mean squared difference of all numbers of frames where `mask` is True; 0 where it nowhere is."""
    error = (given.float() - target.float()).square().mean((2, 3))
    return error.masked_fill(~mask, 0).sum() / mask.sum().clamp_min(1)
