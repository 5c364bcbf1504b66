"""The compact backbone: a frame encoder, a Q-Former and an answerer small enough to be trained on a CPU (ours).

    see    frames -> cells of 8 x 8 pixels; a convolutional encoder that was taught by `Naming` to name them
    read   MiniLM's frozen vectors of the words of questions and options
    look   the things that the question and each option speak of, found by `Mentions`, are looked up in the cells of a
           frame: how much of each is there, where and how large it is; and what is always looked for, such as hands
    score  each option reads the frames in their order: what it and the question speak of, and how that changes from
           one frame to the next, in the light of both texts; then a transformer over the frames

What is looked up is frozen with the encoder. A frame's query tokens are in this order: things of the question, five
options (zero where a question has fewer), what is always looked for. Options are treated all alike and know nothing of
their letter, so that to reorder them reorders their logits and no more.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from vkdlab.data.encoders import SENTENCE_DIM
from vkdlab.vlap.backbone import LETTERS, Backbone, Prompt
from vkdlab.vlap.layers import GAIN, PLACE_FEATURES, SIGHT_FEATURES, Layer, cell_positions, find, place_features
from vkdlab.vlap.mentions import Mentions
from vkdlab.vlap.texts import CompactText, TextMemory

STRIDE = 8
"""Width and height of a cell, pixels."""
SIGHTING = SIGHT_FEATURES + 1
"""Numbers that are known of a thing in a frame: how it is seen there, and how much the text speaks of it."""


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
    hidden: int = 96
    """Size of query tokens; a multiple of `heads`."""
    score_layers: int = 2
    """Transformer layers over the frames."""
    heads: int = 4
    """Attention heads."""
    dropout: float = 0.1
    """Share dropped of texts, and of what each layer adds, while training; 0 to below 1."""

    def __post_init__(self):
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"CompactConfig.grid is (columns, rows), 1 or more each, got {self.grid}")
        for field in ("hidden", "score_layers", "heads"):
            if getattr(self, field) < 1:
                raise ValueError(f"CompactConfig.{field} must be at least 1, got {getattr(self, field)}")
        if self.hidden % self.heads:
            raise ValueError(f"CompactConfig.hidden must be a multiple of heads ({self.heads}), got {self.hidden}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"CompactConfig.dropout must be from 0 to below 1, got {self.dropout}")


class QFormer(nn.Module):
    """Query tokens of one frame: what is seen there of the things that a prompt speaks of.

    Args:
        things: things k that a text speaks of.
        always: how many more are looked up whatever is asked.
        config: sizes.
    """

    def __init__(self, *, things: int, always: int, config: CompactConfig):
        super().__init__()
        self.things = things
        self.question = nn.ModuleList(nn.Linear(SIGHTING, config.hidden) for _ in range(things))
        self.option = nn.Linear(things * SIGHTING, config.hidden)
        self.always = nn.ModuleList(nn.Linear(SIGHTING, config.hidden) for _ in range(always))
        self.place = nn.Linear(PLACE_FEATURES, config.hidden)

    def forward(self, seen: Float[Tensor, "*b m 7"], places: Float[Tensor, "*b"]) -> Float[Tensor, "*b q e"]:
        """Query tokens of frames.

        Args:
            seen: what `CompactBackbone.sight` gives for a frame: the question's k things, those of five options, and
                what always is looked up.
            places: where in its video each frame is, 0..1.
        """
        seen, last = GAIN * seen, self.things * (1 + len(LETTERS))
        of_options = seen[..., self.things : last, :].unflatten(-2, (len(LETTERS), self.things)).flatten(-2)
        tokens = [layer(seen[..., i, :]) for i, layer in enumerate(self.question)]
        tokens += self.option(of_options).unbind(-2)
        tokens += [layer(seen[..., last + i, :]) for i, layer in enumerate(self.always)]
        return (torch.stack(tokens, -2) + self.place(place_features(places))[..., None, :]).float()


class Answerer(nn.Module):
    """Logits of options, from the query tokens of all frames and the prompt.

    Args:
        things: query tokens k of a frame that belong to the question.
        always: those that belong to no text.
        config: sizes.
    """

    def __init__(self, *, things: int, always: int, config: CompactConfig):
        super().__init__()
        hidden, self.things = config.hidden, things
        self.shared = nn.Linear(3 * (things + always) * hidden, hidden)
        self.own = nn.Linear(3 * hidden, hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.light = nn.Sequential(nn.Linear(2 * SENTENCE_DIM, hidden), nn.GELU(), nn.Linear(hidden, 2 * hidden))
        self.text = nn.Linear(2 * SENTENCE_DIM, hidden)
        self.layers = nn.ModuleList(
            Layer(hidden, heads=config.heads, dropout=config.dropout) for _ in range(config.score_layers)
        )
        self.out = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, 1))

    def forward(
        self, visual: Float[Tensor, "b s q e"], text: CompactText, mask: Bool[Tensor, "b s"]
    ) -> Float[Tensor, "b o"]:
        """Arguments and result as of `Backbone.score`."""
        first = mask.int().argsort(dim=1, descending=True, stable=True)  # frames that are there, in their order
        mask = mask.gather(1, first)
        visual = torch.where(mask[..., None, None], visual[torch.arange(len(visual))[:, None], first], 0)
        (b, o), end = text.option_mask.shape, self.things + len(LETTERS)
        shared = torch.cat([visual[:, :, : self.things], visual[:, :, end:]], 2).flatten(2)  # (b, s, (k + a) e)
        own = visual[:, :, self.things : self.things + o].transpose(1, 2)  # (b, o, s, e)
        seen = self.shared(_with_changes(shared, mask))[:, None] + self.own(_with_changes(own, mask[:, None]))

        words, word_mask = text.options, text.option_word_mask
        options = words.sum(2) / word_mask.sum(2, keepdim=True).clamp_min(1)
        texts = self.dropout(torch.cat([text.question[:, None].expand(-1, o, -1), options], 2))
        scale, shift = self.light(texts)[:, :, None].chunk(2, 3)
        seen = functional.gelu(seen * (1 + scale) + shift)
        x = torch.cat([self.text(texts)[:, :, None], seen], 2).flatten(0, 1)  # (b o, 1 + s, e)
        # What is read out is there in any case, so that no row of the attention is empty.
        there = torch.cat([mask.new_ones(b, 1), mask], 1).repeat_interleave(o, 0)
        for layer in self.layers:
            x = layer(x, there)
        return self.out(x[:, 0]).float().view(b, o).masked_fill(~text.option_mask, -torch.inf)


class CompactBackbone(Backbone):
    """Answers from frames that a small encoder sees. A copy shares the texts that were remembered.

    Args:
        encoder: trained by `Naming`; copied and frozen.
        mentions: trained by `MentionTraining`; copied and frozen.
        always: vectors of what is looked up whatever is asked, such as of classes that have no names of their own.
        config: sizes; `grid` has to be that of the frames that will be read.

    Raises:
        ValueError: `mentions` or `always` do not fit the encoder.
    """

    def __init__(
        self,
        encoder: FrameEncoder,
        mentions: Mentions,
        *,
        always: Float[Tensor, "a d"],
        config: CompactConfig = CompactConfig(),
    ):
        super().__init__()
        if mentions.dim != encoder.dim or always.ndim != 2 or always.shape[1] != encoder.dim:
            raise ValueError(
                f"the encoder gives {encoder.dim} numbers a cell, mentions look up {mentions.dim}, and what is always "
                f"looked up is of shape {tuple(always.shape)}"
            )
        self.config = config
        self.frame_dim, self.frame_tokens = encoder.dim, math.prod(config.grid)
        self.queries = mentions.things + len(LETTERS) + len(always)
        self.visual_dim = config.hidden
        self.named = mentions.things + len(always)
        self.lookups = mentions.things * (1 + len(LETTERS)) + len(always)
        self.question_dim = SENTENCE_DIM + self.named * encoder.dim
        self.encoder = copy.deepcopy(encoder).requires_grad_(False).eval()
        self.mentions = copy.deepcopy(mentions).requires_grad_(False).eval()
        self.register_buffer("always", always.detach().clone().float())
        sizes = {"things": mentions.things, "always": len(always), "config": config}
        self.qformer, self.answerer = QFormer(**sizes), Answerer(**sizes)
        self.register_buffer("positions", cell_positions(*config.grid), persistent=False)
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

    def sight(
        self, tokens: Float[Tensor, "b s n d"], text: CompactText, mask: Bool[Tensor, "b s"]
    ) -> Float[Tensor, "b s m 7"]:
        """What is seen in frames of all that their prompts speak of, and of what is always looked up.

        It is the part of `look` that is frozen; `look` takes it in place of tokens, so that it may be kept. Arguments
        and errors are those of `look`.
        """
        if tokens.shape[2:] != (self.frame_tokens, self.frame_dim):
            (columns, rows), given = self.config.grid, tuple(tokens.shape[2:])
            raise ValueError(f"expected frames of {columns} x {rows} cells of {self.frame_dim} numbers, got {given}")
        seen = tokens.new_zeros(*mask.shape, self.lookups, SIGHTING, dtype=torch.float32)
        if mask.any():
            wanted, there = self._wanted(text)
            asked = mask.nonzero()[:, 0]  # the prompt of each frame
            shown = tokens.flatten(0, 1) if mask.all() else tokens[mask]  # a copy of all cells takes as long as looking
            found = find(shown.float(), wanted[asked], positions=self.positions).features
            there = there[asked][..., None]
            seen[mask] = torch.cat([found * there, there], 2)
        return seen

    def look(
        self,
        tokens: Float[Tensor, "b s n d"] | Float[Tensor, "b s m 7"],
        text: CompactText,
        mask: Bool[Tensor, "b s"],
        places: Float[Tensor, "b s"],
    ) -> Float[Tensor, "b s q e"]:
        """As `Backbone.look`; each frame is looked at alone. In place of tokens it takes what `sight` gives.

        Raises:
            ValueError: frames of another number of tokens than the grid has.
        """
        seen = tokens if tokens.shape[2:] == (self.lookups, SIGHTING) else self.sight(tokens, text, mask)
        exists = functional.pad(text.option_mask, (0, len(LETTERS) - text.option_mask.shape[1]))
        exists = functional.pad(exists, (self.mentions.things, len(self.always)), value=True)
        visual = self.qformer(seen.float(), places.float())
        return torch.where((mask[:, :, None] & exists[:, None])[..., None], visual, 0)

    def score(
        self, visual: Float[Tensor, "b s q e"], text: CompactText, mask: Bool[Tensor, "b s"]
    ) -> Float[Tensor, "b o"]:
        return self.answerer(visual, text, mask)

    def question(self, text: CompactText) -> Float[Tensor, "b e2"]:
        """The sentence's vector, then `named` vectors of `frame_dim` numbers: its things, and what always is looked up.

        A vector of a thing is shorter the less the question speaks of one.
        """
        found = self.mentions(text.words, text.word_mask)
        vectors = functional.normalize(found.vectors.float(), dim=2) * found.there[..., None]
        always = functional.normalize(self.always, dim=1).expand(len(vectors), -1, -1)
        return torch.cat([text.question, torch.cat([vectors, always], 1).flatten(1)], 1)

    @torch.no_grad()
    def _wanted(self, text: CompactText) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b m"]]:
        """What is looked up for each prompt, and how much it is spoken of."""
        (b, o), things = text.option_mask.shape, self.mentions.things
        asked = self.mentions(text.words, text.word_mask)
        offered = self.mentions(text.options.flatten(0, 1), text.option_word_mask.flatten(0, 1))
        missing = (0, 0, 0, (len(LETTERS) - o) * things)
        vectors = functional.pad(offered.vectors.float().reshape(b, o * things, -1), missing)
        there = functional.pad(offered.there.float().reshape(b, o * things, 1), missing)[..., 0]
        always = self.always.expand(b, -1, -1)
        return (
            torch.cat([asked.vectors.float(), vectors, always], 1),
            torch.cat([asked.there.float(), there, there.new_ones(always.shape[:2])], 1),
        )

    @property
    def _device(self) -> torch.device:
        return self.always.device


def _convolution(given: int, dim: int, *, stride: int = 1, dilation: int = 1) -> tuple[nn.Module, nn.Module]:
    layer = nn.Conv2d(given, dim, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
    return layer, nn.BatchNorm2d(dim)


def _with_changes(x: Float[Tensor, "*b s e"], mask: Bool[Tensor, "*#b s"]) -> Float[Tensor, "*b s e3"]:
    """Each frame's numbers, and how they change from the frame before and to the next; 0 where there is none."""
    change = (x[..., 1:, :] - x[..., :-1, :]) * mask[..., 1:, None]
    before, behind = (functional.pad(change, (0, 0, *pad))[..., : x.shape[-2], :] for pad in ((1, 0), (0, 1)))
    return torch.cat([x, before, behind], -1)
