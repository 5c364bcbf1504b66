"""What several teachers say about the same queries, on one grid: asked once, then mixed and distilled from (ours)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from vkdlab.data.grounding import GroundingBatch, GroundingDataset
from vkdlab.emtm.moments import best_moments
from vkdlab.emtm.outputs import Boundaries
from vkdlab.emtm.teacher import GroundingTeacher
from vkdlab.emtm.unify import unify
from vkdlab.files import hash_of
from vkdlab.metrics import temporal_iou
from vkdlab.weights import load_tensors, save_tensors

_TENSORS = ("start", "end", "mask", "moments_s", "duration_s", "truth_s")


@dataclass(frozen=True, eq=False)
class TeacherOutputs:
    """The unified answers of k teachers to n queries, on a grid of l clips.

    Raises:
        ValueError: names or ids that are not one per teacher or query, or not unique; or a teacher that says
            not-a-number, which is named.
    """

    names: tuple[str, ...]
    """The k teachers."""
    ids: tuple[str, ...]
    """Ids of the n queries."""
    start: Float[Tensor, "n k l"]
    """Probability of each clip to hold the start, by teacher; 0 on padding."""
    end: Float[Tensor, "n k l"]
    """Likewise the end."""
    mask: Bool[Tensor, "n l"]
    """True on real clips, which come first."""
    moments_s: Float[Tensor, "n k 2"]
    """Each teacher's best moment, decoded from its start and end; seconds."""
    duration_s: Float[Tensor, " n"]
    """Lengths of the videos, seconds."""
    truth_s: Float[Tensor, "n 2"]
    """The true moments, seconds; not-a-number where the moment is not known."""

    def __post_init__(self):
        for what, given, count in (("teacher", self.names, self.start.shape[1]), ("query", self.ids, len(self.start))):
            if len(given) != count:
                raise ValueError(f"expected one name for every {what}, got {len(given)} for {count}")
            if len(set(given)) != count:
                twice = next(name for name in given if given.count(name) > 1)
                raise ValueError(f"{what} {twice!r} is there twice: each one has a name of its own")
        for side, probs in (("start", self.start), ("end", self.end)):
            bad = ~probs.isfinite().all(2)
            if bad.any():
                row, teacher = bad.nonzero()[0].tolist()
                raise ValueError(
                    f"teacher {self.names[teacher]!r} says not-a-number for the {side} of query {self.ids[row]!r}"
                )

    @property
    def num_clips(self) -> Int[Tensor, " n"]:
        """Real clips of each query's video."""
        return self.mask.sum(1)

    @property
    def iou(self) -> Float[Tensor, "n k"]:
        """IoU of every teacher's best moment with the truth, 0 to 1.

        Raises:
            ValueError: a query whose true moment is not known.
        """
        require_truth(self.truth_s, self.ids)
        return temporal_iou(self.moments_s, self.truth_s[:, None])

    @property
    def fingerprint(self) -> str:
        """Hash of names, ids and numbers, these to five digits behind the point."""
        return fingerprint_of([self.names, self.ids], [getattr(self, name) for name in _TENSORS])

    def rows(self, index: Int[Tensor, " m"] | Bool[Tensor, " n"] | Sequence[int]) -> TeacherOutputs:
        """Some of the queries, in the order of `index`: positions, or True for those to keep."""
        where = torch.arange(len(self.ids))[torch.as_tensor(index)]
        parts = {name: getattr(self, name)[where] for name in _TENSORS}
        return replace(self, ids=tuple(self.ids[row] for row in where.tolist()), **parts)

    def teachers(self, names: Sequence[str]) -> TeacherOutputs:
        """Some of the teachers, in the order of `names`.

        Raises:
            ValueError: a name that is none of the teachers, or none at all.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown or not names:
            raise ValueError(f"expected some of the teachers {', '.join(self.names)}, got {', '.join(names) or 'none'}")
        where = [self.names.index(name) for name in names]
        parts = {name: getattr(self, name)[:, where] for name in ("start", "end", "moments_s")}
        return replace(self, names=tuple(names), **parts)

    def join(self, others: Sequence[TeacherOutputs]) -> TeacherOutputs:
        """These queries and those of `others`, on the longest of the grids.

        Raises:
            ValueError: other teachers, or a query that is there twice.
        """
        parts = [self, *others]
        for other in others:
            if other.names != self.names:
                raise ValueError(
                    f"outputs of {', '.join(self.names)} cannot be joined with those of {', '.join(other.names)}: "
                    "bring them into one order with .teachers(names)"
                )
        longest = max(part.mask.shape[1] for part in parts)
        return replace(
            self,
            ids=tuple(name for part in parts for name in part.ids),
            **{
                field: torch.cat([functional.pad(getattr(p, field), (0, longest - p.mask.shape[1])) for p in parts])
                for field in ("start", "end", "mask")
            },
            **{
                field: torch.cat([getattr(part, field) for part in parts])
                for field in ("moments_s", "duration_s", "truth_s")
            },
        )

    def save(self, path: str | os.PathLike) -> None:
        """Writes everything as one safetensors file, atomically."""
        state = {"names": self.names, "ids": self.ids}
        save_tensors(path, {name: getattr(self, name) for name in _TENSORS}, state=state)

    @classmethod
    def load(cls, path: str | os.PathLike) -> TeacherOutputs:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or holds something else.
        """
        tensors, state = load_tensors(path)
        if set(tensors) != set(_TENSORS) or not isinstance(state, dict) or set(state) != {"names", "ids"}:
            raise ValueError(f"{path} holds no teacher outputs: it has {', '.join(sorted(tensors)) or 'nothing'}")
        return cls(names=tuple(state["names"]), ids=tuple(state["ids"]), **tensors)


@torch.no_grad()
def collect(
    teachers: Mapping[str, GroundingTeacher],
    dataset: GroundingDataset,
    *,
    batch_size: int = 64,
    progress: bool = True,
) -> TeacherOutputs:
    """Asks every teacher about every query, in the order of the data set, on its grid of `max_clips`.

    Args:
        teachers: by name; each is used where it is, in evaluation mode.
        dataset: queries with features.
        batch_size: queries at once.
        progress: show a bar.

    Returns:
        On the CPU.

    Raises:
        ValueError: no teacher, or one that says not-a-number; the message names teacher, query and video.
    """
    if not teachers:
        raise ValueError("at least one teacher is needed, got none")
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size, collate_fn=dataset.collate)
    videos = {query.id: query.video for query in dataset.dataset.queries}
    training = {name: teacher.training for name, teacher in teachers.items()}
    for teacher in teachers.values():
        teacher.eval()
    try:
        parts = [
            _ask(teachers, batch, length=dataset.max_clips, videos=videos)
            for batch in tqdm(loader, desc="teachers", unit="batch", disable=not progress)
        ]
    finally:
        for name, teacher in teachers.items():
            teacher.train(training[name])
    return parts[0].join(parts[1:])


def decode(
    boundaries: Boundaries, duration_s: Float[Tensor, " b"], *, k: int, rows: int = 256
) -> Float[Tensor, "b k 2"]:
    """The k best moments in seconds, best first, `rows` queries at once: each takes a table of start by end."""
    parts = zip(
        *(part.split(rows) for part in (boundaries.start, boundaries.end, boundaries.mask, duration_s)), strict=True
    )
    found = [best_moments(start, end, duration_s=length_s, mask=mask, k=k)[0] for start, end, mask, length_s in parts]
    return torch.cat(found)


def require_truth(truth_s: Float[Tensor, "n 2"], ids: Sequence[str]) -> None:
    """Raises a ValueError that names the first query whose true moment is not known."""
    unknown = truth_s.isnan().any(1)
    if unknown.any():
        first = ids[int(unknown.nonzero()[0])]
        raise ValueError(
            f"the true moment of {int(unknown.sum())} of {len(ids)} queries is not known, the first is {first!r}: "
            "IoU, fitting and the oracle need labelled queries"
        )


def fingerprint_of(plain: list, tensors: Sequence[Tensor]) -> str:
    """Hash of plain values and of tensors, to five digits behind the point."""
    content = hashlib.sha256()
    for tensor in tensors:
        rounded = (tensor.double() * 1e5).round().nan_to_num(nan=-1e5).long()
        content.update(str(tuple(tensor.shape)).encode() + rounded.cpu().numpy().tobytes())
    return hash_of(plain, content.hexdigest())


def _ask(
    teachers: Mapping[str, GroundingTeacher], batch: GroundingBatch, *, length: int, videos: Mapping[str, str]
) -> TeacherOutputs:
    mask = functional.pad(batch.video_mask, (0, length - batch.video_mask.shape[1]))
    starts, ends, moments_s = [], [], []
    for name, teacher in teachers.items():
        device = next((parameter.device for parameter in teacher.parameters()), torch.device("cpu"))
        found = unify(teacher(batch.to(device)), length=length, mask=mask.to(device))
        start, end = found.start.float().cpu(), found.end.float().cpu()
        bad = ~(start.isfinite().all(1) & end.isfinite().all(1))
        if bad.any():
            query = batch.ids[int(bad.nonzero()[0])]
            raise ValueError(
                f"teacher {name!r} says not-a-number for query {query!r} (video {videos[query]!r}): "
                "train it again with a smaller learning rate, or leave it out"
            )
        starts.append(start)
        ends.append(end)
        moments_s.append(decode(Boundaries(start=start, end=end, mask=mask), batch.duration_s, k=1))
    return TeacherOutputs(
        names=tuple(teachers),
        ids=tuple(batch.ids),
        start=torch.stack(starts, 1),
        end=torch.stack(ends, 1),
        mask=mask,
        moments_s=torch.cat(moments_s, 1),
        duration_s=batch.duration_s,
        truth_s=batch.moment_s,
    )
