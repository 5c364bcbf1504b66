"""The compact backbone: a frame encoder, a Q-Former and an answerer small enough to be trained on a CPU (ours).

    see    frames -> cells of 8 x 8 pixels; a convolutional encoder that was taught by `Naming` to name them
    read   MiniLM's frozen vectors of the words of questions and options
    look   a query token a question pool and an option: it looks itself up in the cells by the similarity that naming
           taught, and knows how much of it is there, where, and what stands there; a few query tokens are free to look
           for anything; then a transformer within the frame
    score  a transformer over all frames' tokens and the question's words; each option reads it, and its own tokens

A frame's query tokens are in this order: pools, five options (zero where a question has fewer), free ones. Options are
treated all alike and know nothing of their letter, so that to reorder them reorders their logits and no more.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from vkdlab.data.encoders import SENTENCE_DIM
from vkdlab.vlap.backbone import LETTERS, Backbone, Prompt
from vkdlab.vlap.layers import (
    CELL_FEATURES,
    PLACE_FEATURES,
    Layer,
    Sighting,
    cell_features,
    cell_positions,
    find,
    place_features,
)
from vkdlab.vlap.texts import CompactText, TextMemory

STRIDE = 8
"""Width and height of a cell, pixels."""
SHARPNESS = 16.0
"""Factor of the cosine of a cell and a phrase before the softmax, in naming and, to begin with, in looking up."""
THRESHOLD = 0.7
"""Cosine below which words are rather nowhere than in a cell, to begin with. On 100 frames of the built-in world an
encoder that had named 12,800 frames gave the best cell 0.69 to 0.95 where a thing was in sight, and 0.11 to 0.65 where
it was not (5 % and 95 % quantiles)."""


class FrameEncoder(nn.Module):
    """Frames to tokens, one for each cell of 8 x 8 pixels, that know of about 90 x 90 pixels around it.

    Args:
        width: channels of the first convolution.
        dim: size d of a token.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, width: int = 24, *, dim: int = 96):
        super().__init__()
        if width < 1 or dim < 1:
            raise ValueError(f"width and dim must be at least 1, got {width} and {dim}")
        self.width, self.dim = width, dim
        self.body = nn.Sequential(
            *_convolution(3, width, stride=2), nn.ReLU(),
            *_convolution(width, width), nn.ReLU(),
            *_convolution(width, 2 * width, stride=2), nn.ReLU(),
            *_convolution(2 * width, 2 * width), nn.ReLU(),
            *_convolution(2 * width, 4 * width, stride=2), nn.ReLU(),
            *_convolution(4 * width, 4 * width), nn.ReLU(),
            *_convolution(4 * width, 4 * width, dilation=2), nn.ReLU(),
            *_convolution(4 * width, dim),
        )  # fmt: skip

    def forward(self, frames: UInt8[Tensor, "t h w 3"]) -> Float[Tensor, "t n d"]:
        """Tokens of frames, row by row.

        Args:
            frames: RGB, 0 to 255; height and width are multiples of 8.

        Raises:
            ValueError: another size.
        """
        return self.maps(frames.permute(0, 3, 1, 2).float() / 255).flatten(2).transpose(1, 2)

    def maps(self, pictures: Float[Tensor, "t 3 h w"]) -> Float[Tensor, "t d rows columns"]:
        """The same of pictures as networks take them, RGB, 0..1, and in their grid. Errors as for `forward`."""
        height, width = pictures.shape[2:]
        if height % STRIDE or width % STRIDE or not height or not width:
            raise ValueError(f"height and width of frames must be multiples of {STRIDE}, got {height} and {width}")
        return self.body(pictures).float()


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of a compact backbone."""

    grid: tuple[int, int] = (16, 12)
    """Columns and rows of cells of a frame; a cell has 8 x 8 pixels."""
    hidden: int = 128
    """Size of query tokens; a multiple of `heads`."""
    pools: int = 4
    """Query tokens that look up what the question speaks of."""
    free: int = 4
    """Query tokens that are free to look for anything."""
    look_layers: int = 1
    """Transformer layers within a frame."""
    score_layers: int = 2
    """Transformer layers over all frames, and as many by which options read them."""
    heads: int = 4
    """Attention heads."""
    dropout: float = 0.15
    """Share dropped of what each layer adds while training, 0 to below 1."""

    def __post_init__(self):
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"CompactConfig.grid is (columns, rows), 1 or more each, got {self.grid}")
        for field in ("hidden", "pools", "free", "look_layers", "score_layers", "heads"):
            if getattr(self, field) < 1:
                raise ValueError(f"CompactConfig.{field} must be at least 1, got {getattr(self, field)}")
        if self.hidden % self.heads:
            raise ValueError(f"CompactConfig.hidden must be a multiple of heads ({self.heads}), got {self.hidden}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"CompactConfig.dropout must be from 0 to below 1, got {self.dropout}")


class QFormer(nn.Module):
    """Query tokens of one frame and the question.

    Args:
        dim: size d of the cells' tokens.
        config: sizes.
    """

    def __init__(self, dim: int, *, config: CompactConfig):
        super().__init__()
        hidden = config.hidden
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(SHARPNESS)))
        self.threshold = nn.Parameter(torch.tensor(THRESHOLD))
        self.pools = nn.Parameter(0.02 * torch.randn(config.pools, SENTENCE_DIM))
        self.option_pool = nn.Parameter(torch.zeros(1, SENTENCE_DIM))
        self.text = nn.Linear(SENTENCE_DIM, hidden)
        self.roles = nn.Parameter(0.02 * torch.randn(config.pools + 1, hidden))
        self.norm, self.values = nn.LayerNorm(dim), nn.Linear(dim, hidden)
        self.geometry = nn.Linear(CELL_FEATURES + 4, hidden)
        self.free = nn.Parameter(0.02 * torch.randn(config.free, hidden))
        self.asked = nn.Linear(SENTENCE_DIM, config.free * hidden)
        self.cell_places = nn.Linear(CELL_FEATURES, dim)
        self.layers = nn.ModuleList(
            Layer(hidden, heads=config.heads, dropout=config.dropout, memory=dim) for _ in range(config.look_layers)
        )
        self.project = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden))
        self.place = nn.Linear(PLACE_FEATURES, hidden)
        positions = cell_positions(*config.grid)
        self.register_buffer("positions", positions, persistent=False)
        self.register_buffer("cell_features", cell_features(positions), persistent=False)

    def named(self, text: CompactText) -> Float[Tensor, "b m 384"]:
        """What is looked up: the question's words pooled in several ways, then each option's; zero without option."""
        options = _pooled(text.options, text.option_word_mask, self.option_pool)[:, :, 0]
        options = functional.pad(options, (0, 0, 0, len(LETTERS) - options.shape[1]))
        return torch.cat([_pooled(text.words, text.word_mask, self.pools), options], 1)

    def forward(
        self,
        cells: Float[Tensor, "k n d"],
        places: Float[Tensor, " k"],
        asked: Int[Tensor, " k"],
        text: CompactText,
        words: nn.Linear,
    ) -> Float[Tensor, "k q e"]:
        """Query tokens of k frames of any videos.

        Args:
            cells: tokens of the frames.
            places: where in its video each frame is, 0..1.
            asked: the prompt of each frame.
            text: b prompts.
            words: from MiniLM's vectors to the cells'.
        """
        named = self.named(text)
        found = self.find(cells, words(named)[asked])
        exists = functional.pad(text.option_mask, (0, len(LETTERS) - text.option_mask.shape[1]))
        exists = functional.pad(exists, (len(self.pools), len(self.free)), value=True)[asked]  # (k, q)

        cells = self.norm(cells)
        geometry = [found.shares @ self.cell_features, found.spread * found.mass[..., None]]
        geometry += [found.mass[..., None], found.best[..., None]]
        roles = torch.cat([self.roles[:-1], self.roles[-1:].expand(len(LETTERS), -1)])
        seen = found.shares.to(cells.dtype) @ self.values(cells) + self.geometry(torch.cat(geometry, 2))
        free = self.free + self.asked(text.question).unflatten(1, (len(self.free), -1))
        x = torch.cat([seen + (self.text(named) + roles)[asked], free[asked]], 1)
        memory = cells + self.cell_places(self.cell_features)
        for layer in self.layers:
            x = layer(x, exists, memory)
        x = self.project(x) + self.place(place_features(places))[:, None]
        return x.float() * exists[..., None]

    def find(self, cells: Float[Tensor, "k n d"], wanted: Float[Tensor, "k m d"]) -> Sighting:
        """Looks up words, projected to the cells' vectors, in frames."""
        return find(
            cells, wanted, positions=self.positions, sharpness=self.log_sharpness.exp(), threshold=self.threshold
        )


class Answerer(nn.Module):
    """Logits of options, from the query tokens of all frames and the words of the prompt.

    Args:
        config: sizes.
    """

    def __init__(self, *, config: CompactConfig):
        super().__init__()
        hidden, self.pools = config.hidden, config.pools
        self.text = nn.Linear(SENTENCE_DIM, hidden)
        self.kinds = nn.Parameter(0.02 * torch.randn(4, hidden))
        sizes = {"heads": config.heads, "dropout": config.dropout}
        self.layers = nn.ModuleList(Layer(hidden, **sizes) for _ in range(config.score_layers))
        self.option_layers = nn.ModuleList(Layer(hidden, **sizes, memory=hidden) for _ in range(config.score_layers))
        self.out = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, 1))

    def forward(
        self, visual: Float[Tensor, "b s q e"], text: CompactText, mask: Bool[Tensor, "b s"]
    ) -> Float[Tensor, "b o"]:
        """Arguments and result as of `Backbone.score`."""
        visual = torch.where(mask[..., None, None], visual, 0)
        exists = text.option_mask
        b, o = exists.shape
        first, last = self.pools, self.pools + len(LETTERS)
        of_question, of_frame, of_option, of_words = self.kinds
        shared = torch.cat([visual[:, :, :first], visual[:, :, last:]], 2)  # (b, s, pools + free, e)
        memory = torch.cat([shared.flatten(1, 2) + of_frame, self.text(text.words) + of_question], 1)
        memory_mask = torch.cat([mask.repeat_interleave(shared.shape[2], 1), text.word_mask], 1)
        for layer in self.layers:
            memory = layer(memory, memory_mask)

        own = visual[:, :, first : first + o].transpose(1, 2).flatten(0, 1) + of_option  # (b o, s, e)
        words, word_mask = text.options.flatten(0, 1), text.option_word_mask.flatten(0, 1)
        whole = words.sum(1, keepdim=True) / word_mask.sum(1).clamp_min(1)[:, None, None]
        read = self.text(torch.cat([whole, words], 1)) + of_words  # (b o, 1 + v, e)
        x = torch.cat([read, own], 1)
        # What is read out is there in any case, so that no row of the attention is empty.
        x_mask = torch.cat([word_mask.new_ones(b * o, 1), word_mask, mask.repeat_interleave(o, 0)], 1)
        for layer in self.option_layers:
            x = layer(x, x_mask, memory, memory_mask)
        return self.out(x[:, 0]).float().view(b, o).masked_fill(~exists, -torch.inf)


class CompactBackbone(Backbone):
    """Answers from frames that a small encoder sees. A copy shares the texts that were remembered.

    Args:
        encoder: trained by `Naming`; copied and frozen.
        words: the projection that `Naming` trained, from MiniLM's 384 numbers to `encoder.dim`; copied, and trained on.
        config: sizes; `grid` has to be that of the frames that will be read.

    Raises:
        ValueError: `words` does not fit the encoder.
    """

    def __init__(self, encoder: FrameEncoder, words: nn.Linear, *, config: CompactConfig = CompactConfig()):
        super().__init__()
        if (words.in_features, words.out_features) != (SENTENCE_DIM, encoder.dim):
            raise ValueError(
                f"words has to project {SENTENCE_DIM} numbers to the encoder's {encoder.dim}, "
                f"got {words.in_features} to {words.out_features}"
            )
        self.config = config
        self.frame_dim, self.frame_tokens = encoder.dim, math.prod(config.grid)
        self.queries = config.pools + len(LETTERS) + config.free
        self.visual_dim, self.question_dim = config.hidden, SENTENCE_DIM
        self.encoder = copy.deepcopy(encoder).requires_grad_(False).eval()
        self.words = copy.deepcopy(words).requires_grad_(True)
        self.qformer, self.answerer = QFormer(encoder.dim, config=config), Answerer(config=config)
        self._texts = TextMemory()

    def train(self, mode: bool = True) -> CompactBackbone:
        """Turns dropout on or off; the encoder, and the statistics of its batch norms, stay as they are."""
        super().train(mode)
        self.encoder.eval()
        return self

    def remember(self, texts: Iterable[str], *, progress: bool = True) -> None:
        """Encodes questions and options at once, or takes them from the cache where that was done before.

        Args:
            texts: all that will be read; what is read and was not remembered is encoded then.
            progress: shows a progress bar.

        Raises:
            ValueError: a text has no word, or is longer than 63 word pieces.
            ImportError: MiniLM is not installed; the message says how to get it.
        """
        self._texts.remember(texts, progress=progress)

    @torch.no_grad()
    def see(self, frames: UInt8[Tensor, "t h w 3"]) -> Float[Tensor, "t n d"]:
        if not len(frames):
            raise ValueError("there is no frame to see")
        frames = frames.to(self._device)
        columns, rows = self.config.grid
        size = rows * STRIDE, columns * STRIDE
        if tuple(frames.shape[1:3]) == size:
            return self.encoder(frames)
        pictures = frames.permute(0, 3, 1, 2).float() / 255
        pictures = functional.interpolate(pictures, size, mode="bilinear", antialias=True, align_corners=False)
        return self.encoder.maps(pictures).flatten(2).transpose(1, 2)

    def read(self, prompts: Sequence[Prompt]) -> CompactText:
        return self._texts.read(prompts).to(self._device)

    def look(
        self,
        tokens: Float[Tensor, "b s n d"],
        text: CompactText,
        mask: Bool[Tensor, "b s"],
        places: Float[Tensor, "b s"],
    ) -> Float[Tensor, "b s q e"]:
        """As `Backbone.look`. A frame is told from another by its place alone, wherever it stands in its row.

        Raises:
            ValueError: frames of another number of tokens than the grid has.
        """
        if tokens.shape[2] != self.frame_tokens:
            columns, rows = self.config.grid
            raise ValueError(f"expected frames of {columns} x {rows} cells, got {tokens.shape[2]} tokens a frame")
        visual = tokens.new_zeros(*mask.shape, self.queries, self.visual_dim, dtype=torch.float32)
        if not mask.any():
            return visual
        asked = mask.nonzero()[:, 0]  # the prompt of each frame
        visual[mask] = self.qformer(tokens[mask].float(), places[mask].float(), asked, text, self.words)
        return visual

    def score(
        self, visual: Float[Tensor, "b s q e"], text: CompactText, mask: Bool[Tensor, "b s"]
    ) -> Float[Tensor, "b o"]:
        return self.answerer(visual, text, mask)

    def question(self, text: CompactText) -> Float[Tensor, "b e2"]:
        return text.question

    def find(self, tokens: Float[Tensor, "k n d"], text: Float[Tensor, "m 384"]) -> Sighting:
        """Where frames show what is spoken of: the look-up that `look` begins with, to be looked at.

        Args:
            tokens: of frames.
            text: MiniLM's vectors, of whole texts or of words.
        """
        return self.qformer.find(tokens, self.words(text).expand(len(tokens), -1, -1))

    @property
    def _device(self) -> torch.device:
        return self.words.weight.device


def _convolution(given: int, dim: int, *, stride: int = 1, dilation: int = 1) -> tuple[nn.Module, nn.Module]:
    layer = nn.Conv2d(given, dim, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
    return layer, nn.BatchNorm2d(dim)


def _pooled(
    vectors: Float[Tensor, "*b w 384"], mask: Bool[Tensor, "*b w"], pools: Float[Tensor, "p 384"]
) -> Float[Tensor, "*b p 384"]:
    """Means of words, weighted by a softmax of their products with each pool; zero where there is no word."""
    scores = (vectors @ pools.T).float().masked_fill(~mask[..., None], torch.finfo(torch.float32).min)
    return scores.softmax(-2).transpose(-1, -2) @ vectors
