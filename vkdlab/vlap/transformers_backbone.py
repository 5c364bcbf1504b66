"""InstructBLIP and BLIP-2 as a backbone of VLAP, over Hugging Face `transformers` (ViLA, ECCV 2024, released code).

    visual = W QFormer(queries, LN(ViT(frame)), prompt),  logits = LM([visual of all frames, prompt], "Option")[letters]

The prompt is the question, its lettered options and an instruction; the option whose letter is likeliest to follow the
word "Option" is the answer. The visual encoder and the language model are frozen; the Q-Former, its queries, the
projection and the scale of the LayerNorm behind the visual encoder learn. BLIP-2's Q-Former sees no text.

A checkpoint is a folder on this machine, with weights in safetensors. Nothing is downloaded and no pickle is opened.

Where we differ from the released code:

- only letters of options that exist are compared, where it compares five of them always;
- "Option" is given to the language model, where it is generated, and the letter is whatever comes second;
- a prompt that is too long is refused, where it loses its end, instruction and last options first;
- frozen parts have no dropout in training, where that of the language model stays on;
- `see` keeps the checkpoint's LayerNorm, so that what it gives can be kept, and `look` applies a scale and a shift that
  learn: the same functions as of a LayerNorm that learns;
- what learns is float32, whatever the frozen parts are;
- the text half of the Q-Former's last layer, which nothing reads, does not learn.

`as_released=True` gives the first and the third as released.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from vkdlab.vlap.backbone import LETTERS, Backbone, Prompt, Text
from vkdlab.vlap.lora import LoRA, add_lora

INSTRUCTION = "Which option do the frames show to be right?"
ANSWER = "Answer: Option"
"""What a language model that only continues texts is given behind the prompt."""
MODELS = {"instructblip": "InstructBlipForConditionalGeneration", "blip-2": "Blip2ForConditionalGeneration"}
"""Class of `transformers` for each kind of checkpoint that can be loaded."""


@dataclass(frozen=True, eq=False)
class TokenText(Text):
    """Prompts as token ids."""

    ids: Int64[Tensor, "b w"]
    """The prompts, in the language model's tokens."""
    mask: Bool[Tensor, "b w"]
    """True on tokens, False on padding; likewise below."""
    question_ids: Int64[Tensor, "b w2"]
    """The questions alone, in the language model's tokens."""
    question_mask: Bool[Tensor, "b w2"]
    qformer_ids: Int64[Tensor, "b w3"] | None = None
    """The prompts, in the Q-Former's tokens; None where it sees no text."""
    qformer_mask: Bool[Tensor, "b w3"] | None = None


def prompt_text(prompt: Prompt) -> str:
    """What the Q-Former and the language model read: question, lettered options, instruction."""
    options = (f"Option {letter}: {option}" for letter, option in zip(LETTERS, prompt.options, strict=False))
    return " ".join([prompt.question, *options, INSTRUCTION])


class TransformersBackbone(Backbone):
    """An InstructBLIP or BLIP-2 model that answers by letter; `load` makes one from a checkpoint's folder.

    Args:
        model: an InstructBlipForConditionalGeneration or a Blip2ForConditionalGeneration, of an encoder-decoder or a
            decoder-only language model. It is used, not copied; what learns of it is made float32.
        image_processor: resizes and normalises frames to the model's input.
        tokenizer: of the language model.
        qformer_tokenizer: of InstructBLIP's Q-Former; None for BLIP-2.
        max_tokens: longest prompt, in tokens of either tokenizer.
        as_released: whether to compare all five letters whatever options there are, and to cut prompts that are too
            long for an encoder-decoder.
        lora: how the language model may change; None keeps it as it is.

    Raises:
        ValueError: images do not come out in the model's size, a prompt of `max_tokens` has no place in the Q-Former,
            or the tokenizer has not one token for each letter behind "Option".
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        image_processor: Any,
        tokenizer: Any,
        qformer_tokenizer: Any | None = None,
        max_tokens: int = 128,
        as_released: bool = False,
        lora: LoRA | None = None,
    ):
        super().__init__()
        config = model.config
        positions = getattr(config.qformer_config, "max_position_embeddings", max_tokens)
        if qformer_tokenizer is not None and not 1 <= max_tokens <= positions:
            raise ValueError(f"max_tokens is 1 to {positions}, the Q-Former's positions, got {max_tokens}")
        self.model, self.image_processor = model, image_processor
        self.tokenizer, self.qformer_tokenizer = tokenizer, qformer_tokenizer
        self.max_tokens, self.as_released = max_tokens, as_released
        self.decoder_only = bool(config.use_decoder_only_language_model)

        self.frame_dim, self.queries = config.vision_config.hidden_size, config.num_query_tokens
        self.frame_tokens = model.vision_model.embeddings.num_positions
        self.visual_dim = self.question_dim = config.text_config.hidden_size
        self._check_images()
        answer_ids, letter_ids = _letters(tokenizer, decoder_only=self.decoder_only)
        if not self.decoder_only:
            answer_ids = [model.language_model.config.decoder_start_token_id, *answer_ids]
        self.register_buffer("answer_ids", torch.tensor(answer_ids), persistent=False)
        self.register_buffer("letter_ids", torch.tensor(letter_ids), persistent=False)

        # Of the LayerNorm behind the visual encoder, beside its own, which is part of what `see` gives.
        self.scale = nn.Parameter(torch.ones(self.frame_dim))
        self.shift = nn.Parameter(torch.zeros(self.frame_dim))
        self.adapters = add_lora(model.language_model, lora) if lora else []
        model.requires_grad_(False)
        for part in (model.qformer, model.language_projection):
            part.float().requires_grad_(True)
        model.query_tokens.data = model.query_tokens.data.float()
        model.query_tokens.requires_grad_(True)
        last = model.qformer.encoder.layer[-1]
        if qformer_tokenizer is not None:
            last.intermediate.requires_grad_(False)
            last.output.requires_grad_(False)
        for adapter in self.adapters:
            adapter.down.requires_grad_(True)
            adapter.up.requires_grad_(True)
        self.eval()

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_tokens: int = 128,
        as_released: bool = False,
        lora: LoRA | None = None,
    ) -> TransformersBackbone:
        """A backbone from the folder of a checkpoint, as `save_pretrained` of its model and processor write it.

        Args:
            folder: on this machine: config.json, safetensors, image processor and tokenizers.
            device: where it runs.
            dtype: of the frozen parts. Flan-T5 was trained in bfloat16 and does not bear float16.
            max_tokens, as_released, lora: see the class.

        Raises:
            FileNotFoundError: there is no such folder, or a file in it is missing. A hub's name is no folder.
            ValueError: it is a checkpoint of something else, its weights are pickled, damaged or not all there, or a
                size does not fit.
            ImportError: `transformers` is not installed.
        """
        folder = Path(folder)
        kind = _kind_of(folder)
        try:
            import transformers
        except ImportError as error:
            raise ImportError(
                "transformers is not installed. Run `pip install -e '.[real]'` in the checkout."
            ) from error
        _check_weights(folder)
        own = {"local_files_only": True, "trust_remote_code": False}
        try:
            images = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", **own)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **own)
            qformer_tokenizer = None
            if kind == "instructblip":
                qformer_tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "qformer_tokenizer", **own)
            model, report = getattr(transformers, MODELS[kind]).from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
            )
        except Exception as error:
            raise ValueError(f"{folder} cannot be loaded as a checkpoint of {MODELS[kind]}: {error}") from error
        if missing := sorted(report["missing_keys"]):
            raise ValueError(
                f"{folder} is not whole: it lacks {len(missing)} tensors of {MODELS[kind]}, {', '.join(missing[:5])}"
            )
        backbone = cls(
            model,
            image_processor=images,
            tokenizer=tokenizer,
            qformer_tokenizer=qformer_tokenizer,
            max_tokens=max_tokens,
            as_released=as_released,
            lora=lora,
        )
        return backbone.to(device)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that learn, by name: what a training changes, and all that has to be kept of it."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def train(self, mode: bool = True) -> TransformersBackbone:
        """Turns dropout on or off in the parts that learn; the frozen parts have none."""
        super().train(mode)
        self.model.vision_model.eval()
        self.model.language_model.eval()
        for adapter in self.adapters:
            adapter.train(mode)
        return self

    @torch.no_grad()
    def see(self, frames: UInt8[Tensor, "t h w 3"]) -> Float[Tensor, "t n d"]:
        if not len(frames):
            raise ValueError("there is no frame to see")
        encoder = self.model.vision_model
        pixels = self._pixels(frames.cpu().numpy()).to(self.scale.device, encoder.dtype)
        return encoder(pixel_values=pixels).last_hidden_state.float()

    def read(self, prompts: Sequence[Prompt]) -> TokenText:
        if not prompts:
            raise ValueError("there is no prompt to read")
        texts = [prompt_text(prompt) for prompt in prompts]
        spoken = [f"{text} {ANSWER}" for text in texts] if self.decoder_only else texts
        ids, mask = self._tokens(self.tokenizer, spoken)
        questions = self.tokenizer([p.question for p in prompts], add_special_tokens=False, split_special_tokens=True)
        question_ids, question_mask = _padded(questions["input_ids"])
        text = TokenText(torch.tensor([len(p.options) for p in prompts]), ids, mask, question_ids, question_mask)
        if self.qformer_tokenizer is not None:
            qformer_ids, qformer_mask = self._tokens(self.qformer_tokenizer, texts)
            text = replace(text, qformer_ids=qformer_ids, qformer_mask=qformer_mask)
        return text.to(self.scale.device)

    def look(
        self,
        tokens: Float[Tensor, "b s n d"],
        text: TokenText,
        mask: Bool[Tensor, "b s"],
        places: Float[Tensor, "b s"] | None = None,
    ) -> Float[Tensor, "b s q e"]:
        """As `Backbone.look`. Frames are known by their order alone: places have no influence."""
        if not mask.any():
            return tokens.new_zeros(*mask.shape, self.queries, self.visual_dim, dtype=torch.float32)
        frames = tokens[mask].float() * self.scale + self.shift  # (k, n, d), without padding
        queries = self.model.query_tokens.expand(len(frames), -1, -1)
        if text.qformer_ids is None:
            hidden = self.model.qformer(query_embeds=queries, encoder_hidden_states=frames).last_hidden_state
        else:
            asked = mask.nonzero()[:, 0]  # the prompt of each frame
            seen = torch.cat([mask.new_ones(len(frames), self.queries), text.qformer_mask[asked]], 1)
            hidden = self.model.qformer(
                input_ids=text.qformer_ids[asked],
                attention_mask=seen.long(),
                query_embeds=queries,
                encoder_hidden_states=frames,
            ).last_hidden_state
        found = self.model.language_projection(hidden[:, : self.queries]).float()
        visual = found.new_zeros(*mask.shape, *found.shape[1:])
        visual[mask] = found
        return visual

    def score(
        self, visual: Float[Tensor, "b s q e"], text: TokenText, mask: Bool[Tensor, "b s"]
    ) -> Float[Tensor, "b o"]:
        words = self.model.language_model.get_input_embeddings()(text.ids)
        given = torch.cat([visual.flatten(1, 2).to(words.dtype), words], 1)
        real = torch.cat([mask.repeat_interleave(self.queries, 1), text.mask], 1)
        letter_logits = self._next_logits(*_packed(given, real))[:, self.letter_ids].float()
        if self.as_released:
            return letter_logits
        exists = text.option_mask
        return letter_logits[:, : exists.shape[1]].masked_fill(~exists, -torch.inf)

    def question(self, text: TokenText) -> Float[Tensor, "b e"]:
        words = self.model.language_model.get_input_embeddings()(text.question_ids).float()
        weights = text.question_mask / text.question_mask.sum(1, keepdim=True).clamp_min(1)
        return (words * weights[..., None]).sum(1)

    def _next_logits(self, given: Float[Tensor, "b w e"], real: Bool[Tensor, "b w"]) -> Float[Tensor, "b v"]:
        """Logits of what follows "Option"; sequences are real from their start, and padded at their end."""
        model, lengths = self.model.language_model, real.sum(1)
        if not self.decoder_only:
            answers = self.answer_ids.expand(len(given), -1)
            output = model(inputs_embeds=given, attention_mask=real.long(), decoder_input_ids=answers, use_cache=False)
            return output.logits[:, -1]
        positions = getattr(model.config, "max_position_embeddings", given.shape[1])
        if given.shape[1] > positions:
            raise ValueError(
                f"a prompt and the {self.queries} tokens of each of its frames are {given.shape[1]} tokens, and the "
                f"language model reads {positions}: keep fewer frames"
            )
        kept, place = (lengths - 1).unique(return_inverse=True)
        output = model(inputs_embeds=given, attention_mask=real.long(), logits_to_keep=kept, use_cache=False)
        return output.logits[torch.arange(len(given), device=given.device), place]

    def _tokens(self, tokenizer: Any, texts: Sequence[str]) -> tuple[Int64[Tensor, "b w"], Bool[Tensor, "b w"]]:
        cut = self.as_released and not self.decoder_only
        # Split, so that a question which spells out "<image>" does not become one.
        rows = tokenizer(
            texts, split_special_tokens=True, truncation=cut, max_length=self.max_tokens if cut else None, verbose=False
        )["input_ids"]
        longest = max(range(len(rows)), key=lambda i: len(rows[i]))
        if len(rows[longest]) > self.max_tokens:
            raise ValueError(
                f"a prompt has {len(rows[longest])} tokens, and {self.max_tokens} are read: load the backbone with a "
                f"greater max_tokens. It is {texts[longest]!r}"
            )
        return _padded(rows)

    def _pixels(self, frames: UInt8[np.ndarray, "t h w 3"]) -> Float[Tensor, "t 3 h2 w2"]:
        batch = self.image_processor(list(frames), input_data_format="channels_last", return_tensors="pt")
        return batch["pixel_values"]

    def _check_images(self) -> None:
        size = self.model.config.vision_config.image_size
        expected = (size, size) if isinstance(size, int) else tuple(size)
        given = tuple(self._pixels(np.zeros((1, 8, 12, 3), np.uint8)).shape[2:])
        if given != expected:
            raise ValueError(
                f"the image processor makes frames of {given} pixels, the visual encoder takes {expected}: "
                "take the image processor that belongs to the checkpoint"
            )


def _kind_of(folder: Path) -> str:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no folder. Expected that of a checkpoint on this machine; nothing is downloaded by its name"
        )
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} has no config.json: expected a checkpoint of InstructBLIP or BLIP-2")
    try:
        kind = json.loads(file.read_text())["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} names no model_type: expected one of {', '.join(MODELS)}") from error
    if kind not in MODELS:
        raise ValueError(f"{folder} is a checkpoint of {kind!r}: expected one of {', '.join(MODELS)}")
    return kind


def _check_weights(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        names = []
    elif index.is_file():
        names = json.loads(index.read_text())["weight_map"].values()
    else:
        names = [path.name for path in folder.glob("*.bin")]
        if not names:
            raise FileNotFoundError(f"{folder} has neither model.safetensors nor {index.name}, of several files")
    if pickles := sorted({name for name in names if not name.endswith(".safetensors")}):
        raise ValueError(
            f"{folder} has its weights in {', '.join(pickles)}. A pickle can run any code and is not opened: get or "
            "make model.safetensors"
        )


def _letters(tokenizer: Any, *, decoder_only: bool) -> tuple[list[int], list[int]]:
    """Token ids of what stands before the letter, and of the letters."""
    start = ANSWER if decoder_only else "Option"
    before = tokenizer(start, add_special_tokens=decoder_only)["input_ids"]
    spelled = [tokenizer(f"{start} {letter}", add_special_tokens=decoder_only)["input_ids"] for letter in LETTERS]
    letters = [ids[-1] for ids in spelled]
    if any(ids[:-1] != before for ids in spelled) or len(set(letters)) < len(LETTERS):
        raise ValueError(
            f"the language model's tokenizer has not one token for each of {', '.join(LETTERS)} behind {start!r}: "
            f"expected {before} and a token, got {spelled}"
        )
    return before, letters


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Int64[Tensor, "b w"], Bool[Tensor, "b w"]]:
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    ids[mask] = torch.tensor([token for row in rows for token in row])
    return ids, mask


def _packed(
    given: Float[Tensor, "b w e"], real: Bool[Tensor, "b w"]
) -> tuple[Float[Tensor, "b w2 e"], Bool[Tensor, "b w2"]]:
    """Sequences without gaps, which would shift positions: what is real first, in its order, then zeros."""
    order = (~real).long().argsort(dim=1, stable=True)[:, : int(real.sum(1).max())]
    real = real.gather(1, order)
    given = given.take_along_dim(order[..., None], 1)
    return torch.where(real[..., None], given, 0), real
