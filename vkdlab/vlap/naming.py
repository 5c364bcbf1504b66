"""How a frame encoder learns what is in a frame, and words for it (ours): it names every cell.

    p(class | cell) = softmax_class(SHARPNESS cos(token, W v_class))

where v_class is MiniLM's frozen vector of a phrase for the class, another one of several at each step ("the red mug",
"What happens to the small red cup?"). The projection W is kept with the encoder: by it words of a question are looked
up in a frame. Both are learned together, from labels of pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from vkdlab.data.dense import VOID
from vkdlab.data.dense_batches import DenseBatch
from vkdlab.data.encoders import SENTENCE_DIM
from vkdlab.data.sentences import sentence_features
from vkdlab.data.tabletop.language import NOUNS
from vkdlab.metrics import Mean
from vkdlab.vlap.layers import SHARPNESS
from vkdlab.vlap.networks import STRIDE, FrameEncoder

PHRASES = (
    "the {}",
    "{}",
    "the small {}",
    "the large {}",
    "it is the {}",
    "What happens to the {}?",
    "What is done to the large {}?",
)
"""How a thing is spoken of."""
TABLE_SHARE = 0.25
"""What a pixel of the first class counts for where a cell's class is chosen; any other counts 1."""
TABLE_WEIGHT = 0.5
"""What a cell of the first class counts for in the loss; any other counts 1."""


class Naming(nn.Module):
    """Trains a frame encoder and its projection of words; made for `vkdlab.training.fit`, monitor "named".

    After training `encoder` and `words` are what a `CompactBackbone` starts from.

    Args:
        encoder: the frame encoder; used, not copied.
        classes: names of the classes, as `DenseDataset.classes`; the first lies behind all things ("table").
        words: the projection that another naming has learned: kept as it is, so that one vector is looked up in the
            cells of both encoders. None: a new one is learned.
        progress: shows a progress bar while phrases are encoded for the first time.

    Raises:
        ValueError: fewer than two classes, or words that do not fit the encoder.
        ImportError: MiniLM is not installed; the message says how to get it.
    """

    def __init__(
        self, encoder: FrameEncoder, *, classes: Sequence[str], words: nn.Linear | None = None, progress: bool = True
    ):
        super().__init__()
        if len(classes) < 2:
            raise ValueError(f"naming needs at least two classes to tell apart, got {list(classes)}")
        self.encoder, self.classes = encoder, tuple(classes)
        if words is not None and (words.in_features, words.out_features) != (SENTENCE_DIM, encoder.dim):
            raise ValueError(
                f"words has to project {SENTENCE_DIM} numbers to the encoder's {encoder.dim}, "
                f"got {words.in_features} to {words.out_features}"
            )
        self.words = nn.Linear(SENTENCE_DIM, encoder.dim, bias=False)
        if words is not None:
            self.words = copy.deepcopy(words).requires_grad_(False)
        said = [phrases(name) for name in classes]
        vectors = sentence_features([phrase for each in said for phrase in each], progress=progress)
        found = [torch.stack([vectors.embedding(phrase) for phrase in each]) for each in said]
        self.register_buffer("phrases", pad_sequence(found, batch_first=True), persistent=False)
        self.register_buffer("counts", torch.tensor([len(each) for each in found]), persistent=False)
        weights = torch.ones(len(classes))
        weights[0] = TABLE_WEIGHT
        self.register_buffer("weights", weights, persistent=False)

    def loss(self, batch: DenseBatch) -> dict[str, Tensor]:
        """Cross-entropy of the cells' classes; cells of which nothing is known do not count.

        Raises:
            ValueError: the frames have no labels, or labels of other classes.
        """
        chosen = (torch.rand(len(self.counts), device=self.counts.device) * self.counts).long()
        logits, truth = self._answered(batch, chosen)
        total = functional.cross_entropy(
            logits.flatten(0, 1), truth.flatten(), weight=self.weights, ignore_index=VOID, reduction="mean"
        )
        return {"total": total}

    def evaluate(self, batch: DenseBatch) -> dict[str, Mean]:
        """Shares of cells that are given the right class by the first phrase of each.

        Returns:
            "named" of cells that show a thing, "table" of cells of the first class.

        Raises:
            ValueError: as `loss`.
        """
        logits, truth = self._answered(batch, torch.zeros_like(self.counts))
        right, table = logits.argmax(2) == truth, truth == 0
        return {"named": Mean.of(right[~table & (truth != VOID)]), "table": Mean.of(right[table])}

    @torch.no_grad()
    def looked_up(self, names: Sequence[str]) -> Float[Tensor, "c d"]:
        """Vectors by which classes are found in cells.

        Raises:
            ValueError: there is no such class.
        """
        if unknown := [name for name in names if name not in self.classes]:
            raise ValueError(f"there are the classes {', '.join(self.classes)}, not {', '.join(unknown)}")
        return self.words(self.phrases[[self.classes.index(name) for name in names], 0])

    def _answered(self, batch: DenseBatch, chosen: Int[Tensor, " k"]) -> tuple[Tensor, Tensor]:
        if batch.labels is None:
            raise ValueError("naming learns from the classes of pixels, and these frames have no labels")
        tokens = self.encoder.maps(batch.frames.flatten(0, 1)).flatten(2).transpose(1, 2)
        names = self.words(self.phrases[torch.arange(len(chosen), device=chosen.device), chosen])
        cosines = functional.normalize(tokens.float(), dim=2) @ functional.normalize(names.float(), dim=1).T
        return SHARPNESS * cosines.float(), cell_labels(batch.labels.flatten(0, 1), classes=len(self.classes))


def phrases(name: str) -> list[str]:
    """Ways to speak of a class, all nouns of the built-in world's shapes among them; "the NAME" comes first."""
    *before, noun = name.split()
    things = [" ".join([*before, each]) for each in NOUNS.get(noun, (noun,))]
    return [phrase.format(thing) for phrase in PHRASES for thing in things]


def cell_labels(labels: Int[Tensor, "n h w"], *, classes: int) -> Int[Tensor, "n cells"]:
    """The class that most pixels of each cell of 8 x 8 have, where a pixel of class 0 counts for a quarter.

    Args:
        labels: classes of pixels, 255 where none is known; h and w are multiples of 8.
        classes: how many there are.

    Returns:
        Classes, row by row; of equals the first; 255 where no pixel of the cell is known.

    Raises:
        ValueError: a label is no class.
    """
    known = labels != VOID
    if ((labels < 0) | (labels >= classes))[known].any():
        raise ValueError(f"labels are 0 to {classes - 1}, or {VOID} where none is known, got {labels[known].unique()}")
    n, h, w = labels.shape
    cells = labels.reshape(n, h // STRIDE, STRIDE, w // STRIDE, STRIDE).transpose(2, 3).reshape(-1, STRIDE**2)
    slots = torch.where(cells == VOID, classes, cells).long()
    counts = torch.zeros(len(cells), classes + 1, device=labels.device)
    counts = counts.scatter_add(1, slots, torch.ones_like(slots, dtype=counts.dtype))[:, :classes]
    counts[:, 0] *= TABLE_SHARE
    return torch.where(counts.any(1), counts.argmax(1), VOID).reshape(n, -1)
