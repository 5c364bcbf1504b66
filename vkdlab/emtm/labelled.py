"""What a student is distilled on: queries with labels from teachers, and with their moments or without (ours).

A label is two distributions over the clips of the query's video, start and end. A video whose moments nobody annotated
teaches through its label alone: its moments are not-a-number in every batch, so that nothing can be learned from them.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vkdlab.data.datasets import Dataset
from vkdlab.data.grounding import GroundingBatch, GroundingDataset
from vkdlab.emtm.integration import Integrated
from vkdlab.emtm.teacher_outputs import TeacherOutputs, fingerprint_of
from vkdlab.files import hash_of


@dataclass
class DistillationBatch(GroundingBatch):
    """A batch for grounding whose queries have labels, moments or both."""

    label_start: Float32[Tensor, "b l"]
    """Probability of each clip to hold the start; 0 on padding and in rows without a label."""
    label_end: Float32[Tensor, "b l"]
    """Likewise for the end."""
    has_moment: Bool[Tensor, " b"]
    """True where `moment_s` was annotated; elsewhere it is not-a-number."""
    has_label: Bool[Tensor, " b"]
    """True where there is a label of all teachers together."""
    teacher_start: Float32[Tensor, "b k l"] | None = None
    """Every teacher's own distribution over starts, 0 in rows without; None where no row has any. k counts teachers."""
    teacher_end: Float32[Tensor, "b k l"] | None = None
    """Likewise for ends."""

    @property
    def has_teachers(self) -> Bool[Tensor, " b"]:
        """True where there is what every teacher says."""
        if self.teacher_start is None:
            return torch.zeros_like(self.has_label)
        return self.teacher_start.flatten(1).any(1)


@dataclass(frozen=True, eq=False)
class Label:
    """What teachers say together about some queries."""

    ids: tuple[str, ...]
    """Ids of the n queries."""
    start: Float[Tensor, "n l"]
    """Probability of each clip to hold the start; 0 on padding."""
    end: Float[Tensor, "n l"]
    """Likewise the end."""

    @classmethod
    def join(cls, *parts: Integrated) -> Label:
        """Of several data sets, on grids of one length."""
        return cls(
            tuple(name for part in parts for name in part.ids),
            torch.cat([part.start for part in parts]),
            torch.cat([part.end for part in parts]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Queries that are labelled alike. `Part.of` makes one of what the teachers said.

    Raises:
        ValueError: labels that are not those of the queries, one by one and in their order, or are no distributions
            over the clips of their videos; moments of a test split; neither moments nor labels.
    """

    dataset: GroundingDataset
    """Videos, sentences and, with `has_moment`, the true moments."""
    ids: Sequence[str] = ()
    """Ids of the queries that the labels' rows are for; the dataset's own, in its order. Empty without labels."""
    start: Float[Tensor, "n l"] | None = None
    """Label: probability of each clip to hold the start; a grid at least as long as the longest video's."""
    end: Float[Tensor, "n l"] | None = None
    """Likewise for the end."""
    teacher_start: Float[Tensor, "n k m"] | None = None
    """Every teacher's own distribution over starts, where weights are to be learned with the student; m as l."""
    teacher_end: Float[Tensor, "n k m"] | None = None
    """Likewise for ends."""
    has_moment: bool = True
    """False drops the moments of these queries: training never sees them."""

    def __post_init__(self):
        data = self.dataset.dataset
        where = f"{data.name} {data.split}"
        if self.has_moment and data.split == "test":
            raise ValueError(
                f"{where}: the moments of a test split are what results are measured by, and no training material. "
                "Pass has_moment=False to learn from its videos without them"
            )
        for name in ("", "teacher_"):
            pair = getattr(self, f"{name}start"), getattr(self, f"{name}end")
            if (pair[0] is None) != (pair[1] is None):
                raise ValueError(f"{where}: {name}start and {name}end come together, one of them is missing")
        labels = {name: label for name in _LABELS if (label := getattr(self, name)) is not None}
        if not labels:
            if not self.has_moment:
                raise ValueError(f"{where}: without moments and without labels there is nothing to learn from")
            return
        expected, given = [query.id for query in data.queries], list(self.ids)
        if len(given) != len(expected):
            raise ValueError(f"{where}: it has {len(expected)} queries, the labels are for {len(given)} ids")
        for row, (want, got) in enumerate(zip(expected, given, strict=True)):
            if want != got:
                raise ValueError(f"{where}: query {row} is {want!r}, the label in that row is for {got!r}")
        counts = torch.tensor([len(self.dataset.videos[query.video]) for query in data.queries])
        for name, label in labels.items():
            if len(label) != len(expected):
                raise ValueError(f"{where}: it has {len(expected)} queries, {name} has {len(label)} rows")
            if label.shape[-1] < counts.max():
                row = int(counts.argmax())
                raise ValueError(
                    f"{where}: the video of query {expected[row]!r} has {counts[row]} clips, {name} has "
                    f"{label.shape[-1]}: labels are on the clips of the dataset, at most its max_clips"
                )
            within = torch.arange(label.shape[-1]) < counts[:, None]
            within = within[:, None] if label.ndim == 3 else within
            bad = (label < 0) | (label > 1e-6) & ~within | ~label.isfinite()
            bad = bad.any(-1) | ~((label.sum(-1) - 1).abs() < 1e-3)
            if bad.any():
                row = int(bad.nonzero()[0, 0])
                raise ValueError(
                    f"{where}: {name} of query {expected[row]!r} is no distribution over the {counts[row]} clips of "
                    "its video: not negative, 0 beyond them, with sum 1"
                )

    @classmethod
    def of(
        cls,
        dataset: GroundingDataset,
        label: Integrated | Label | None = None,
        *,
        outputs: TeacherOutputs | None = None,
        has_moment: bool = True,
    ) -> Part:
        """Labels for a dataset's queries, found by id among those of more queries, or in another order.

        Args:
            dataset: the queries.
            label: what the teachers say together.
            outputs: what each of them says, where weights are to be learned with the student.
            has_moment: False drops the moments.

        Raises:
            ValueError: a query has no label, or as the class says.
        """
        ids = tuple(query.id for query in dataset.dataset.queries)
        found = {}
        for prefix, source in (("", label), ("teacher_", outputs)):
            if source is not None:
                row_of = {name: row for row, name in enumerate(source.ids)}
                if missing := [name for name in ids if name not in row_of]:
                    raise ValueError(
                        f"{dataset.dataset.name} {dataset.dataset.split}: {len(missing)} of {len(ids)} queries have no "
                        f"label ({', '.join(missing[:3])}{', ..' if len(missing) > 3 else ''})"
                    )
                rows = torch.tensor([row_of[name] for name in ids])
                found |= {f"{prefix}start": source.start[rows], f"{prefix}end": source.end[rows]}
        return cls(dataset=dataset, ids=ids if found else (), has_moment=has_moment, **found)

    @property
    def teachers(self) -> int:
        """How many teachers' own distributions there are."""
        return 0 if self.teacher_start is None else self.teacher_start.shape[1]

    @property
    def fingerprint(self) -> str:
        """Hash of the queries with their features, of the flag, and of the labels, rounded."""
        labels = {name: label for name in _LABELS if (label := getattr(self, name)) is not None}
        return fingerprint_of([self.dataset.fingerprint, self.has_moment, list(labels)], list(labels.values()))


_LABELS = ("start", "end", "teacher_start", "teacher_end")


class DistillationDataset(torch.utils.data.Dataset):
    """One or several parts as one training split.

    Args:
        parts: queries with moments, labels or both. Features are standardised alike in all of them.

    Raises:
        ValueError: no part, or parts whose features, standardisation or number of teachers differ.
    """

    def __init__(self, parts: Sequence[Part]):
        self.parts = list(parts)
        if not self.parts:
            raise ValueError("at least one part is needed, got none")
        first = self.parts[0]
        self.dim, self.query_dim = first.dataset.dim, first.dataset.query_dim
        self.max_clips = max(part.dataset.max_clips for part in self.parts)
        self.teachers = max(part.teachers for part in self.parts)
        for number, part in enumerate(self.parts):
            if (part.dataset.dim, part.dataset.query_dim) != (self.dim, self.query_dim):
                raise ValueError(
                    f"part {number} has {part.dataset.dim} features a clip and {part.dataset.query_dim} a word, "
                    f"part 0 has {self.dim} and {self.query_dim}: build all from the same stores"
                )
            if part.dataset.standardisation.fingerprint != first.dataset.standardisation.fingerprint:
                raise ValueError(
                    f"part {number} is standardised otherwise than part 0: build every dataset with "
                    "standardisation=train.standardisation of the training split"
                )
            if part.teachers not in (0, self.teachers):
                raise ValueError(
                    f"part {number} has the outputs of {part.teachers} teachers, another one of {self.teachers}"
                )
        self._ends = list(itertools.accumulate(len(part.dataset) for part in self.parts))
        self.dataset = Dataset(
            name="+".join(dict.fromkeys(part.dataset.dataset.name for part in self.parts)),
            split="train",  # of a test split nothing but unlabelled videos comes here
            profile=first.dataset.dataset.profile,
            videos={name: video for part in self.parts for name, video in part.dataset.dataset.videos.items()},
        )
        self.fingerprint = hash_of([part.fingerprint for part in self.parts])
        self.lengths = [length for part in self.parts for length in part.dataset.lengths]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} queries, {index} was asked for")
        number = bisect.bisect_right(self._ends, index)
        part = self.parts[number]
        row = index - (self._ends[number - 1] if number else 0)
        item = part.dataset[row]
        if not part.has_moment:
            item["moment_s"] = torch.full((2,), torch.nan)
        clips = len(item["video"])
        item["has_moment"] = torch.tensor(part.has_moment)
        item["has_label"] = torch.tensor(part.start is not None)
        for name, label in (("label_start", part.start), ("label_end", part.end)):
            item[name] = torch.zeros(clips) if label is None else label[row, :clips].float()
        if self.teachers:
            for name in ("teacher_start", "teacher_end"):
                label = getattr(part, name)
                item[name] = torch.zeros(self.teachers, clips) if label is None else label[row, :, :clips].float()
        return item

    def collate(self, items: Sequence[dict[str, Tensor | str]]) -> DistillationBatch:
        """Joins items into a batch padded to its longest video and its longest query."""
        plain = self.parts[0].dataset.collate(items)
        labels = {
            name: pad_sequence([item[name] for item in items], batch_first=True)
            for name in ("label_start", "label_end")
        }
        if self.teachers:
            labels |= {
                name: pad_sequence([item[name].T for item in items], batch_first=True).transpose(1, 2)
                for name in ("teacher_start", "teacher_end")
            }
        flags = {name: torch.stack([item[name] for item in items]) for name in ("has_moment", "has_label")}
        return DistillationBatch(**vars(plain), **labels, **flags)
