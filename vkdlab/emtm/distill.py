"""EMTM's student and how it is taught: by the truth, by a label of all teachers, through a shared encoder.

    L = L_student + L_isomorphic + alpha L_soft   (+ L_ensemble, as released)

L_student and L_isomorphic are the hard-label losses of two branches on one encoder, which runs once for both; only the
student is kept. L_soft is `vkdlab.emtm.soft_losses`. Each term is the mean over the queries that have what it needs.

Where we differ from the released code, which `as_released` gives: one masked softmax, T^2, a detached label that was
made before (`vkdlab.emtm.aggregate`). Released: a Knowledge Aggregation Unit learns with the student, on the shared
encoder's features; its label `sum_t w_t y_t`, each y_t of L2 norm 1, is taken as logits by L_ensemble, which is the
student's cross-entropy, and L_soft is the one with the double softmax and gradients into the label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from vkdlab.data.grounding import GroundingBatch
from vkdlab.emtm.labelled import DistillationBatch
from vkdlab.emtm.losses import location_loss
from vkdlab.emtm.moments import best_moments, moment_to_clips
from vkdlab.emtm.networks import SpanBranch, SpanConfig, SpanNetwork
from vkdlab.emtm.outputs import SpanOutput
from vkdlab.emtm.soft_losses import released_soft_loss, soft_loss
from vkdlab.metrics import Mean, grounding_metrics
from vkdlab.nn import KnowledgeAggregationUnit


@dataclass(frozen=True)
class Config:
    """What is distilled, and how. `shared_encoder` and `distill` both off leave the student alone."""

    student: SpanConfig
    """Sizes of the student; `dual_layers` is 0."""
    shared_encoder: bool = True
    """Whether an isomorphic teacher learns on the student's encoder."""
    dual_layers: int = 2
    """Rounds of dual attention in the isomorphic teacher, at least 1."""
    distill: bool = True
    """Whether the student learns from labels."""
    alpha: float = 0.1
    """Weight of the label's loss, 0 or more (released code: 0.1)."""
    temperature: float = 1.0
    """T of the soft loss, above 0 (released code: 1 on Charades-STA, 3 on ActivityNet Captions and TACoS)."""
    labels: str = "soft"
    """"soft" for the label's distributions, "hard" for its best moment, which also stands in for a missing truth."""
    as_released: bool = False
    """The released code's Knowledge Aggregation Unit and losses in place of a label made before."""
    teachers: int = 0
    """How many teachers that unit weighs; only with `as_released`."""

    def __post_init__(self):
        if self.student.dual_layers:
            raise ValueError(
                f"Config.student.dual_layers must be 0, got {self.student.dual_layers}: the student's fusion is light, "
                "dual attention is the isomorphic teacher's (Config.dual_layers)"
            )
        if self.dual_layers < 1:
            raise ValueError(f"Config.dual_layers must be at least 1, got {self.dual_layers}")
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(f"Config.alpha must be a finite number, 0 or more, got {self.alpha}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"Config.temperature must be a finite number above 0, got {self.temperature}")
        if self.labels not in ("soft", "hard"):
            raise ValueError(f"Config.labels must be 'soft' or 'hard', got {self.labels!r}")
        if self.as_released and (self.teachers < 1 or self.labels != "soft" or not self.distill):
            raise ValueError(
                "Config.as_released needs teachers of at least 1, labels='soft' and distill=True, "
                f"got teachers={self.teachers}, labels={self.labels!r}, distill={self.distill}"
            )


@dataclass(frozen=True)
class Inspection:
    """What happens inside on one batch; distributions are 0 on padding."""

    mask: Bool[Tensor, "b l"]
    """True on real clips."""
    query_mask: Bool[Tensor, "b w"]
    """True on real words."""
    clips: Float[Tensor, "b l d"]
    """The shared encoder's clips, before any fusion."""
    words: Float[Tensor, "b w d"]
    """The shared encoder's words."""
    student_start: Float[Tensor, "b l"]
    """The student's probability of each clip to hold the start."""
    student_end: Float[Tensor, "b l"]
    """Likewise for the end."""
    student_match: Float[Tensor, "b l 4"]
    """The student's probability of each clip to lie outside, at the start, inside, at the end."""
    isomorphic_start: Float[Tensor, "b l"] | None = None
    """As the student's, of the isomorphic teacher; None without one."""
    isomorphic_end: Float[Tensor, "b l"] | None = None
    """Likewise for the end."""
    isomorphic_match: Float[Tensor, "b l 4"] | None = None
    """Likewise for the places."""
    label_start: Float[Tensor, "b l"] | None = None
    """The label, brought to sum 1; 0 in rows without one, None where the batch brings none."""
    label_end: Float[Tensor, "b l"] | None = None
    """Likewise for the end."""
    weights: Float[Tensor, "b k 2"] | None = None
    """The unit's weights of the teachers for start and end; only as released."""


class _Target(NamedTuple):
    """What hard-label losses take."""

    rows: Bool[Tensor, " b"]
    """Which queries of the batch they apply to."""
    batch: GroundingBatch
    """Those queries, with the moments to learn."""


_T = TypeVar("_T", SpanOutput, GroundingBatch)


class EMTM(nn.Module):
    """A student with its isomorphic teacher, as `vkdlab.training.fit` takes it.

    Args:
        config: what is distilled, and how.
        columns: first and one past the last of the video features that the student sees; all of them when None.

    Attributes:
        student: all that is needed at inference.
        isomorphic: a branch on the student's encoder; None without `shared_encoder`.
        kau: the unit that weighs the teachers; None unless as released.
    """

    def __init__(self, config: Config, *, columns: tuple[int, int] | None = None):
        super().__init__()
        self.config = config
        self.columns = slice(*columns) if columns else slice(None)
        self.student = SpanNetwork(config.student)
        # After the student, whose first weights are then the same with and without it.
        wider = replace(config.student, dual_layers=config.dual_layers)
        self.isomorphic = SpanBranch(wider) if config.shared_encoder else None
        self.kau = (
            KnowledgeAggregationUnit(
                config.student.dim, teachers=config.teachers, inputs="video", length=config.student.max_clips
            )
            if config.as_released
            else None
        )

    def forward(self, batch: GroundingBatch) -> SpanOutput:
        """The student's answer."""
        return self.student(batch.video[..., self.columns], batch.video_mask, batch.query, batch.query_mask)

    def loss(self, batch: GroundingBatch) -> dict[str, Tensor]:
        """The terms of the loss and their sum, "total".

        Args:
            batch: a `DistillationBatch`; without distillation a `GroundingBatch` will do.

        Raises:
            ValueError: the batch has no labels and the student is to learn from some, a query has nothing to learn
                from, or, as released, the teachers' outputs are missing or of another number.
        """
        hard = self._targets(batch)
        clips, words = self._encode(batch)
        student = self.student.branch(clips, batch.video_mask, words, batch.query_mask)
        losses = {"student": _hard_loss(self.student.branch, student, hard)}
        if self.isomorphic is not None:
            output = self.isomorphic(clips, batch.video_mask, words, batch.query_mask)
            losses["isomorphic"] = _hard_loss(self.isomorphic, output, hard)
        total = sum(losses.values())
        if self.config.distill and self.config.as_released:
            losses |= self._released_losses(batch, student, clips, words)
            total = total + losses["ensemble"] + self.config.alpha * losses["soft"]
        elif self.config.distill:
            if self.config.labels == "soft":
                pairs = ((student.start_logits, batch.label_start), (student.end_logits, batch.label_end))
                losses["soft"] = self._soft_loss(soft_loss, pairs, student.mask, batch.has_label)
            else:
                both = batch.has_moment & batch.has_label
                losses["soft"] = _location_loss(student, _target(batch, both, _labelled_moments(batch)))
            total = total + self.config.alpha * losses["soft"]
        return {"total": total, **losses}

    @torch.inference_mode()
    def predict(self, batch: GroundingBatch, *, k: int = 5) -> tuple[Float[Tensor, "b k 2"], Float[Tensor, "b k"]]:
        """The student's k best moments in seconds, best first, and their scores."""
        return self.student.moments(self(batch), batch, k=k)

    @torch.inference_mode()
    def evaluate(self, batch: GroundingBatch) -> dict[str, Mean]:
        """Recall and mean IoU of the student; where there is an isomorphic teacher, R1@0.5 and mIoU of it too."""
        clips, words = self._encode(batch)
        given = {"duration_s": batch.duration_s, "num_clips": batch.video_mask.sum(1)}
        output = self.student.branch(clips, batch.video_mask, words, batch.query_mask)
        found = grounding_metrics(self.student.moments(output, batch, k=5)[0], batch.moment_s, **given)
        if self.isomorphic is not None:
            output = self.isomorphic(clips, batch.video_mask, words, batch.query_mask)
            moments_s, _ = self.student.moments(output, batch, k=1)
            theirs = grounding_metrics(moments_s, batch.moment_s, **given)
            found |= {f"isomorphic/{name}": theirs[name] for name in ("R1@0.5", "mIoU")}
        return found

    @torch.no_grad()
    def inspect(self, batch: GroundingBatch) -> Inspection:
        """What every part says of a batch, in evaluation mode; nothing is changed by looking."""
        was_training = self.training
        self.eval()
        try:
            clips, words = self._encode(batch)
            output = self.student.branch(clips, batch.video_mask, words, batch.query_mask)
            found = _probabilities("student", output)
            if self.isomorphic is not None:
                output = self.isomorphic(clips, batch.video_mask, words, batch.query_mask)
                found |= _probabilities("isomorphic", output)
            if isinstance(batch, DistillationBatch):
                start, end = batch.label_start, batch.label_end
                if self.kau is not None and batch.teacher_start is not None:
                    start, end, found["weights"] = self._ensemble(batch, clips, words)
                found |= {
                    name: label / label.sum(1, keepdim=True).where(label.any(1, keepdim=True), 1)
                    for name, label in (("label_start", start), ("label_end", end))
                }
        finally:
            self.train(was_training)
        return Inspection(mask=batch.video_mask, query_mask=batch.query_mask, clips=clips, words=words, **found)

    def _encode(self, batch: GroundingBatch) -> tuple[Tensor, Tensor]:
        video = batch.video[..., self.columns]
        return self.student.encoder(video, batch.video_mask, batch.query, batch.query_mask)

    def _targets(self, batch: GroundingBatch) -> _Target | None:
        """Where the hard-label losses apply, and with which moments: the truth, else the label's best where asked."""
        if not isinstance(batch, DistillationBatch):
            if self.config.distill:
                raise ValueError(
                    "the batch has no labels to distil from: train on a DistillationDataset, or with distill=False"
                )
            return _target(batch, torch.ones_like(batch.video_mask[:, 0]), batch.moment_s)
        rows, moment_s, label = batch.has_moment, batch.moment_s, torch.zeros_like(batch.has_moment)
        if self.config.distill:
            label = batch.has_teachers if self.config.as_released else batch.has_label
            if self.config.labels == "hard":
                moment_s = torch.where(rows[:, None], moment_s, _labelled_moments(batch))
                rows = rows | label
        if not (useful := rows | label).all():
            raise ValueError(
                f"query {batch.ids[int((~useful).nonzero()[0])]!r} has no moment, and no label that distill="
                f"{self.config.distill}, as_released={self.config.as_released} learns from: leave its part out, or "
                "give it labels"
            )
        return _target(batch, rows, moment_s)

    def _released_losses(
        self, batch: DistillationBatch, student: SpanOutput, clips: Tensor, words: Tensor
    ) -> dict[str, Tensor]:
        start, end, _ = self._ensemble(batch, clips, words)
        rows = batch.has_teachers
        as_logits = replace(
            student,
            start_logits=start.masked_fill(~student.mask, -torch.inf),
            end_logits=end.masked_fill(~student.mask, -torch.inf),
        )
        ensemble = _location_loss(as_logits, _target(batch, rows & batch.has_moment, batch.moment_s))
        # Released: every video is padded to as many clips as the network takes, and padding gets probability.
        longer = (0, self.config.student.max_clips - start.shape[1])
        start, end, start_logits, end_logits, mask = (
            functional.pad(x, longer) for x in (start, end, student.start_logits, student.end_logits, student.mask)
        )
        pairs = ((start_logits, start), (end_logits, end))
        return {"ensemble": ensemble, "soft": self._soft_loss(released_soft_loss, pairs, mask, rows)}

    def _ensemble(self, batch: DistillationBatch, clips: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As released: the label that the unit mixes, for start and end, and the weights."""
        if batch.teacher_start is None:
            raise ValueError("as_released needs what every teacher says: give the parts teacher_start and teacher_end")
        if batch.teacher_start.shape[1] != self.config.teachers:
            raise ValueError(
                f"the batch has the outputs of {batch.teacher_start.shape[1]} teachers, Config.teachers is "
                f"{self.config.teachers}"
            )
        weights = self.kau(clips, words, batch.video_mask, batch.query_mask)  # (b, k, 2)
        start, end = (
            (weights[:, :, side, None] * functional.normalize(said, dim=2)).sum(1)
            for side, said in enumerate((batch.teacher_start, batch.teacher_end))
        )
        return start, end, weights

    def _soft_loss(
        self, loss: Callable[..., Tensor], pairs: Sequence[tuple[Tensor, Tensor]], mask: Tensor, rows: Tensor
    ) -> Tensor:
        """Over pairs of the student's logits and the label, for start and end, in the rows that have a label."""
        if not rows.any():
            return pairs[0][0].new_zeros(())
        temperature = self.config.temperature
        return sum(loss(logits[rows], label[rows], mask[rows], temperature=temperature) for logits, label in pairs)


def _hard_loss(branch: SpanBranch, output: SpanOutput, target: _Target | None) -> Tensor:
    if target is None:
        return output.start_logits.new_zeros(())
    return branch.loss(_rows(output, target.rows), target.batch)["total"]


def _location_loss(output: SpanOutput, target: _Target | None) -> Tensor:
    if target is None:
        return output.start_logits.new_zeros(())
    output, batch = _rows(output, target.rows), target.batch
    return location_loss(output, moment_to_clips(batch.moment_s, batch.duration_s, output.mask.sum(1)))


def _target(batch: GroundingBatch, rows: Bool[Tensor, " b"], moment_s: Float[Tensor, "b 2"]) -> _Target | None:
    if not rows.any():
        return None
    plain = GroundingBatch(**{field.name: getattr(batch, field.name) for field in fields(GroundingBatch)})
    return _Target(rows, _rows(replace(plain, moment_s=moment_s), rows))


def _rows(values: _T, rows: Bool[Tensor, " b"]) -> _T:
    """The same dataclass of tensors and lists with these rows alone."""
    if rows.all():
        return values
    kept = rows.nonzero().squeeze(1)
    return replace(
        values,
        **{
            name: value[kept] if isinstance(value, Tensor) else [value[row] for row in kept.tolist()]
            for name, value in vars(values).items()
        },
    )


def _labelled_moments(batch: DistillationBatch) -> Float[Tensor, "b 2"]:
    """The label's best moment, seconds; of no meaning in rows without a label."""
    moments_s, _ = best_moments(
        batch.label_start, batch.label_end, duration_s=batch.duration_s, mask=batch.video_mask, k=1, candidates=1
    )
    return moments_s[:, 0]


def _probabilities(name: str, output: SpanOutput) -> dict[str, Tensor]:
    return {
        f"{name}_start": output.start_logits.softmax(1),
        f"{name}_end": output.end_logits.softmax(1),
        f"{name}_match": output.match_logits.softmax(2) * output.mask[..., None],
    }
