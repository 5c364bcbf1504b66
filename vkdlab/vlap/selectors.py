"""Ways to choose frames beside a prompter: what it has to beat, and what shows how much there is to gain (ours).

    uniform      the middle of each of S equal parts of the video
    at random    S different frames
    all frames   every frame that was looked at
    no frame     none: what question and options tell by themselves
    oracle       knows the evidence: frames of its span, spread evenly over it
    localizer    asks the answerer about each frame alone, and keeps the S with which it is surest

The localizer is that of SeViLA (Yu et al., NeurIPS 2023), with another confidence: SeViLA asks a language model whether
a frame suffices, and takes its probability of "yes". Our answerer scores options and has no such word, so the greatest
option probability stands in for it.

Every way gives a `Selection`, so one answerer serves all: frames ascend, what is missing to S is behind them with
`mask` False. `scores` say by what a way chose; where it prefers no frame they are 0, and -inf beyond a video's end.
`picks` are one-hot and give no gradient. `probs` and `entropy` speak of a prompter's segments and mean nothing here.
Equals are taken from the start. A video with fewer frames than S gives each of them once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vkdlab.data.datasets import spread
from vkdlab.vlap.backbone import Backbone, Text
from vkdlab.vlap.batches import QuestionBatch
from vkdlab.vlap.prompter import Selection, segments

UNIFORM, RANDOM, ALL, NONE, ORACLE, LOCALIZER = "uniform", "at random", "all frames", "no frame", "oracle", "localizer"
PROMPTER = "prompter"

Way = Callable[[QuestionBatch], Selection]
"""A way to choose frames for the questions of a batch."""

_CLOSE = 1e-6
"""Places and probabilities that differ by less are equal: what is left is rounding."""


@dataclass(frozen=True)
class OracleSelection(Selection):
    """What the oracle chose."""

    known: Bool[Tensor, " b"]
    """False where the data set does not tell the evidence: there the choice is uniform."""


def rivals(backbone: Backbone, *, select: int, seed: int = 0) -> dict[str, Way]:
    """All ways that need no prompter by name, as `vkdlab.vlap.evaluate` takes them.

    Args:
        backbone: whom the localizer asks, in evaluation mode.
        select: S.
        seed: of the random choice.
    """
    return {
        UNIFORM: lambda batch: uniform(batch.mask, select=select),
        RANDOM: lambda batch: at_random(batch.ids, batch.mask, select=select, seed=seed),
        ALL: lambda batch: everything(batch.mask),
        NONE: lambda batch: nothing(batch.mask),
        ORACLE: partial(oracle, select=select),
        LOCALIZER: partial(localizer, backbone, select=select),
    }


def prompted(backbone: Backbone, prompter: Callable[..., Selection], *, select: int) -> Way:
    """A prompter's way.

    Args:
        backbone: whose embedding of the question it sees.
        prompter: called as `FramePrompter`, in evaluation mode.
        select: S.
    """

    def way(batch: QuestionBatch) -> Selection:
        question = backbone.question(backbone.read(batch.prompts))
        return prompter(batch.glances, question, select=select, mask=batch.mask)

    return way


def uniform(mask: Bool[Tensor, "b t"], *, select: int) -> Selection:
    """The middle frame of each of S equal parts of a video, which are a prompter's segments.

    Args:
        mask: True on a video's frames, which come first.
        select: S.

    Raises:
        ValueError: `select` is below 1, a video has no frame, or padding comes before a frame. So do all other ways.
    """
    _check(mask, select)
    return selection_of(_spread(mask, select), mask=mask, select=select)


def at_random(ids: Sequence[str], mask: Bool[Tensor, "b t"], *, select: int, seed: int = 0) -> Selection:
    """S different frames, all equally likely.

    The choice is a function of the seed, the question's id and the number of frames: it is the same on every machine
    and whatever else is in the batch. That of a smaller S lies within that of a larger one.

    Args:
        ids: of the questions.
        mask: as in `uniform`.
        select: S.
        seed: another one makes other choices.
    """
    _check(mask, select)
    luck = [[spread(f"{seed} {ident} {frame}") for frame in range(mask.shape[1])] for ident in ids]
    values = torch.tensor(luck, dtype=torch.float64, device=mask.device)
    return selection_of(_least(values, mask, select), mask=mask, select=select)


def everything(mask: Bool[Tensor, "b t"]) -> Selection:
    """All frames; S is t."""
    _check(mask, mask.shape[1])
    return selection_of(mask, mask=mask, select=mask.shape[1])


def nothing(mask: Bool[Tensor, "b t"]) -> Selection:
    """No frame; one place for a frame, which is masked."""
    _check(mask, 1)
    return selection_of(torch.zeros_like(mask), mask=mask, select=1)


def oracle(batch: QuestionBatch, *, select: int) -> OracleSelection:
    """Frames of the evidence: the middle one of each of S equal parts of those within its span.

    Where the span has fewer than S frames, these and the nearest ones before and behind it. Scores are minus the
    distance from the span, as a share of the video.
    """
    _check(batch.mask, select)
    inside = evidence_frames(batch)
    known = _known(batch)
    start, end = batch.evidence.double().nan_to_num(0).unsqueeze(2).unbind(1)
    places = batch.places.double()
    away = ((start - places).clamp_min(0) + (places - end).clamp_min(0)) * ~inside * known[:, None]
    enough = inside.sum(1) >= select
    chosen = torch.where(enough[:, None], _spread(inside, select), _least(_rounded(away), batch.mask, select))
    chosen = torch.where(known[:, None], chosen, _spread(batch.mask, select))
    found = selection_of(chosen, mask=batch.mask, select=select, scores=-away.float())
    return OracleSelection(**vars(found), known=known)


def evidence_frames(batch: QuestionBatch) -> Bool[Tensor, "b t"]:
    """Which frames are on screen within the evidence's span, its ends included; none where it is not known."""
    start, end = batch.evidence.double().unsqueeze(2).unbind(1)
    places = batch.places.double()
    return batch.mask & (places >= start - _CLOSE) & (places <= end + _CLOSE)  # nothing compares with nan


def localizer(backbone: Backbone, batch: QuestionBatch, *, select: int) -> Selection:
    """The S frames with which the answerer is surest, in the order of time. Scores are the logarithms of `confidence`.

    Args:
        backbone: the answerer, in evaluation mode.
        batch: on its device.
        select: S.
    """
    text = backbone.read(batch.prompts)
    return most_sure(backbone, batch.tokens, text, mask=batch.mask, places=batch.places, select=select)


def most_sure(
    backbone: Backbone,
    tokens: Float[Tensor, "b t n d"],
    text: Text,
    *,
    mask: Bool[Tensor, "b t"],
    places: Float[Tensor, "b t"],
    select: int,
) -> Selection:
    """What `localizer` does, with a text that was read before."""
    return surest(confidence(backbone, tokens, text, mask=mask, places=places), mask=mask, select=select)


def surest(sure: Float[Tensor, "b t"], *, mask: Bool[Tensor, "b t"], select: int) -> Selection:
    """What `localizer` does, with a `confidence` that was asked for before: one serves every S."""
    _check(mask, select)
    return selection_of(_least(-_rounded(sure), mask, select), mask=mask, select=select, scores=sure.log())


@torch.no_grad()
def confidence(
    backbone: Backbone,
    tokens: Float[Tensor, "b t n d"],
    text: Text,
    *,
    mask: Bool[Tensor, "b t"],
    places: Float[Tensor, "b t"],
    at_once: int = 256,
) -> Float[Tensor, "b t"]:
    """How sure the answerer is when it sees one frame alone: its greatest option probability, 0 to 1.

    Args:
        backbone: the answerer, in evaluation mode.
        tokens: of `see`.
        text: b prompts.
        mask: True on a video's frames; on padding nothing is asked, and 0 is given.
        places: of the frames, shares of the video.
        at_once: about how many frames are asked about in one call.
    """
    found = tokens.new_zeros(mask.shape, dtype=torch.float32)
    # Some frames of all questions, not all of some: a text is as wide as the longest of its batch asks for.
    for frames in torch.arange(mask.shape[1], device=mask.device).split(max(1, at_once // len(text))):
        prompts, there = _repeated(text, len(frames)), mask[:, frames].flatten()[:, None]
        visual = backbone.look(
            tokens[:, frames].flatten(0, 1)[:, None], prompts, there, places[:, frames].flatten()[:, None]
        )
        probs = backbone.score(visual, prompts, there).float().softmax(1)
        found[:, frames] = probs.amax(1).view(-1, len(frames))
    return found * mask


def selection_of(
    chosen: Bool[Tensor, "b t"],
    *,
    mask: Bool[Tensor, "b t"],
    select: int,
    scores: Float[Tensor, "b t"] | None = None,
) -> Selection:
    """A selection of the frames marked True.

    Args:
        chosen: at most `select` a video, and none beyond its end.
        mask: True on a video's frames.
        select: S, the selection's width.
        scores: what the choice was made by; 0 when None.

    Raises:
        ValueError: more frames are marked, or one beyond a video's end.
    """
    count = chosen.sum(1, keepdim=True)
    if (chosen & ~mask).any() or count.max() > select:
        raise ValueError(
            f"of each video at most {select} frames can be chosen and none beyond its end, got "
            f"{count.flatten().tolist()} of {mask.sum(1).tolist()}, {int((chosen & ~mask).sum())} beyond the end"
        )
    order = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)[:, :select]
    order = functional.pad(order, (0, select - order.shape[1]))
    there = torch.arange(select, device=mask.device) < count
    indices = order.masked_fill(~there, 0)
    picks = functional.one_hot(indices, mask.shape[1]).float() * there.unsqueeze(2)
    scores = torch.zeros_like(mask, dtype=torch.float32) if scores is None else scores
    return Selection(indices=indices, mask=there, scores=scores.masked_fill(~mask, -torch.inf), picks=picks)


def _spread(members: Tensor, select: int) -> Tensor:
    """The middle one of each of S equal parts of a row's members; all of them where there are not as many."""
    bounds = segments(members.sum(1), select=select)
    first, behind = bounds[:, :-1], bounds[:, 1:]
    middle = torch.where(first < behind, (first + behind) // 2, -1)
    number = members.cumsum(1) - 1
    return members & (number[:, :, None] == middle[:, None]).any(2)


def _least(values: Tensor, mask: Tensor, select: int) -> Tensor:
    """The S frames of the least values."""
    order = values.masked_fill(~mask, torch.inf).argsort(dim=1, stable=True)
    return (order.argsort(dim=1) < select) & mask


def _rounded(values: Tensor) -> Tensor:
    return (values / _CLOSE).round()


def _known(batch: QuestionBatch) -> Tensor:
    return batch.evidence.isfinite().all(1)


def _repeated(text: Text, times: int) -> Text:
    """Each prompt so many times in a row; all tensors of a text have the batch as first axis."""
    tensors = {f.name: getattr(text, f.name) for f in fields(text) if isinstance(getattr(text, f.name), Tensor)}
    return replace(text, **{name: tensor.repeat_interleave(times, 0) for name, tensor in tensors.items()})


def _check(mask: Tensor, select: int) -> None:
    if select < 1:
        raise ValueError(f"select must be at least 1, got {select}")
    if not mask.shape[1] or not mask.any(1).all():
        raise ValueError("a video without any frame has none to choose from")
    if (mask[:, 1:] & ~mask[:, :-1]).any():
        raise ValueError("a video's frames come first and padding behind them, but a mask has padding before a frame")
