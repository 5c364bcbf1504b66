"""Checkpoints of InstructBLIP and BLIP-2 that are written in a moment: tiny, random, with tokenizers trained here."""

import pytest
import torch

from vkdlab.vlap import LETTERS, Prompt
from vkdlab.vlap.transformers_backbone import ANSWER, prompt_text

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

SIZE, QUERIES, VOCABULARY, POSITIONS = 28, 3, 340, 300
CUP = Prompt("what does the red cup do?", ("it slides left", "it spins"))
HAND = Prompt("which thing is taken by the hand after the cup?", ("cup", "box", "the red ball", "none of them", "key"))
KEY = Prompt("where is the key?", ("left", "right", "in the box"))
KINDS = ("instructblip-t5", "instructblip-llama", "blip-2-t5", "blip-2-opt")


def corpus():
    return [" ".join(map(prompt_text, (CUP, HAND, KEY))) + f" {ANSWER} " + " ".join(LETTERS)] * 4


def sentence_pieces():
    """As T5's: pieces that carry the space before them, and an end."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=100, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def byte_pairs():
    """As OPT's: byte pairs, and a start."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="</s>"
    )


def language_config(name):
    common = dict(vocab_size=VOCABULARY, pad_token_id=0, eos_token_id=1)
    if name == "t5":
        return transformers.T5Config(
            d_model=20, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0, **common
        )
    common |= dict(hidden_size=20, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=POSITIONS)
    if name == "opt":
        return transformers.OPTConfig(ffn_dim=32, word_embed_proj_dim=20, bos_token_id=1, **common)
    return transformers.LlamaConfig(intermediate_size=32, bos_token_id=1, **common)


def write_checkpoint(folder, kind):
    """A checkpoint as its model and processor save it, with random weights."""
    torch.manual_seed(3)
    family, language = kind.rsplit("-", 1)
    prefix = "InstructBlip" if family == "instructblip" else "Blip2"
    tokenizer = sentence_pieces() if language == "t5" else byte_pairs()
    image_processor = transformers.BlipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    vision = getattr(transformers, f"{prefix}VisionConfig")(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE, patch_size=14
    )
    qformer = getattr(transformers, f"{prefix}QFormerConfig")(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=200, encoder_hidden_size=24,
    )  # fmt: skip
    config = getattr(transformers, f"{prefix}Config")(
        vision_config=vision, qformer_config=qformer, text_config=language_config(language),
        num_query_tokens=QUERIES, image_token_index=len(tokenizer),
    )  # fmt: skip
    model = getattr(transformers, f"{prefix}ForConditionalGeneration")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    parts = [image_processor, tokenizer] + ([sentence_pieces()] if family == "instructblip" else [])
    getattr(transformers, f"{prefix}Processor")(*parts, num_query_tokens=QUERIES).save_pretrained(folder)
    return folder
