"""InstructBLIP and BLIP-2 from tiny checkpoints that are written here."""

import json
import shutil
import socket

import pytest
import torch

from tests.vlap.tiny_checkpoints import CUP, HAND, KEY, KINDS, POSITIONS, QUERIES, write_checkpoint
from vkdlab.vlap import LoRA, Prompt, TransformersBackbone
from vkdlab.vlap.transformers_backbone import ANSWER, prompt_text

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: write_checkpoint(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(scope="module")
def backbones(folders):
    return {kind: TransformersBackbone.load(folder) for kind, folder in folders.items()}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def backbone(backbones, kind):
    return backbones[kind]


def pictures(count=3, height=20, width=30):
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8)


def answer(backbone, tokens, prompts, mask):
    text = backbone.read(prompts)
    return backbone.score(backbone.look(tokens, text, mask), text, mask)


def test_each_step_gives_the_sizes_that_the_backbone_states(backbone):
    tokens = backbone.see(pictures())
    assert tokens.shape == (3, backbone.frame_tokens, backbone.frame_dim) == (3, 5, 24)
    text, mask = backbone.read([CUP, HAND]), torch.ones(2, 3, dtype=torch.bool)
    visual = backbone.look(tokens.expand(2, -1, -1, -1), text, mask)
    assert visual.shape == (2, 3, backbone.queries, backbone.visual_dim) == (2, 3, QUERIES, 20)
    assert backbone.score(visual, text, mask).shape == (2, 5)
    assert backbone.question(text).shape == (2, backbone.question_dim)
    assert {tokens.dtype, visual.dtype, backbone.question(text).dtype} == {torch.float32}


def test_options_that_a_question_does_not_have_cannot_be_chosen(backbone):
    tokens = backbone.see(pictures()).expand(3, -1, -1, -1)
    scores = answer(backbone, tokens, [CUP, HAND, KEY], torch.ones(3, 3, dtype=torch.bool))
    assert torch.equal(scores.isfinite(), torch.arange(5) < torch.tensor([[2], [5], [3]]))
    assert (scores[~scores.isfinite()] == -torch.inf).all()


def test_a_question_gets_the_same_scores_alone_and_beside_longer_ones(backbone):
    tokens = backbone.see(pictures(6)).unflatten(0, (3, 2))
    mask = torch.tensor([[True, True], [True, False], [False, True]])
    together = answer(backbone, tokens, [CUP, HAND, KEY], mask)
    questions = backbone.question(backbone.read([CUP, HAND, KEY]))
    for i, prompt in enumerate((CUP, HAND, KEY)):
        alone = answer(backbone, tokens[i : i + 1], [prompt], mask[i : i + 1])
        torch.testing.assert_close(together[i : i + 1, : len(prompt.options)], alone, rtol=1e-4, atol=1e-5)
        question = backbone.question(backbone.read([prompt]))
        torch.testing.assert_close(questions[i : i + 1], question)


def test_padding_between_frames_has_no_influence_whatever_stands_there(backbone):
    tokens = backbone.see(pictures(2))[None]
    plain = answer(backbone, tokens, [KEY], torch.ones(1, 2, dtype=torch.bool))
    full = backbone.see(pictures(5))
    padded = torch.stack([full, full])
    padded[0, [0, 2, 4]], padded[0, [1, 3]] = torch.nan, tokens[0]
    mask = torch.tensor([[False, True, False, True, False], [True] * 5])
    text = backbone.read([KEY, HAND])
    visual = backbone.look(padded, text, mask)
    assert (visual[~mask] == 0).all()
    torch.testing.assert_close(backbone.score(visual, text, mask)[:1, :3], plain, rtol=1e-4, atol=1e-5)
    visual[~mask] = torch.nan
    torch.testing.assert_close(backbone.score(visual, text, mask)[:1, :3], plain, rtol=1e-4, atol=1e-5)


def test_frames_and_their_order_matter(backbone):
    tokens, mask = backbone.see(pictures(2))[None], torch.ones(1, 2, dtype=torch.bool)
    scores = answer(backbone, tokens, [HAND], mask)
    for other in (answer(backbone, tokens.flip(1), [HAND], mask), answer(backbone, tokens[:, :1], [HAND], mask[:, :1])):
        assert (other - scores).abs().max() > 5e-5, "far more than rounding"


def test_a_question_without_any_frame_is_answered_from_its_words(backbone):
    mask, tokens = torch.zeros(1, 2, dtype=torch.bool), backbone.see(pictures(2))[None]
    scores = answer(backbone, tokens, [CUP], mask)
    assert scores.isfinite().all()
    torch.testing.assert_close(scores, answer(backbone, tokens[:, :0], [CUP], mask[:, :0]))


def test_the_qformer_reads_the_prompt_only_in_instructblip(backbone, kind):
    tokens, mask = backbone.see(pictures(1))[None], torch.ones(1, 1, dtype=torch.bool)
    cup, key = (backbone.look(tokens, backbone.read([prompt]), mask) for prompt in (CUP, KEY))
    assert torch.equal(cup, key) == kind.startswith("blip-2")


def test_scores_are_the_logits_of_the_models_own_forward(backbone, folders, kind):
    frame = pictures(1)
    processor = transformers.AutoProcessor.from_pretrained(folders[kind])
    model = backbone.model
    scores = answer(backbone, backbone.see(frame)[None], [KEY], torch.ones(1, 1, dtype=torch.bool))

    def inputs_for(text):
        return dict(processor(images=frame[0].numpy(), text=text, return_tensors="pt"))

    inputs = inputs_for(prompt_text(KEY))
    if kind.endswith("t5"):
        inputs["decoder_input_ids"] = torch.tensor(
            [[0, *processor.tokenizer("Option", add_special_tokens=False)["input_ids"]]]
        )
        letters = ["▁A", "▁B", "▁C"]
    else:
        inputs |= {name: inputs_for(f"{prompt_text(KEY)} {ANSWER}")[name] for name in ("input_ids", "attention_mask")}
        letters = ["ĠA", "ĠB", "ĠC"]
    with torch.no_grad():
        logits = model(**inputs).logits[:, -1, processor.tokenizer.convert_tokens_to_ids(letters)]
    torch.testing.assert_close(scores, logits, rtol=1e-4, atol=1e-5)


def test_seen_tokens_are_the_visual_encoders_of_the_processed_picture(backbone, folders, kind):
    frames = pictures(2, 40, 25)
    processor = transformers.AutoProcessor.from_pretrained(folders[kind])
    pixels = processor.image_processor(list(frames.numpy()), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = backbone.model.vision_model(pixels).last_hidden_state
    seen = backbone.see(frames)
    torch.testing.assert_close(seen, expected)
    torch.testing.assert_close(backbone.see(frames[1:]), seen[1:])
    assert not seen.requires_grad
    with pytest.raises(ValueError, match="no frame"):
        backbone.see(frames[:0])


def test_the_questions_embedding_is_the_mean_of_its_words(backbone):
    text = backbone.read([KEY, Prompt(KEY.question, ("yes", "no"))])
    ids = backbone.tokenizer(KEY.question, add_special_tokens=False)["input_ids"]
    table = backbone.model.language_model.get_input_embeddings().weight
    torch.testing.assert_close(backbone.question(text), table[ids].mean(0).expand(2, -1))


def test_gradients_reach_all_that_learns_and_the_tokens_and_nothing_frozen(backbone):
    tokens = backbone.see(pictures(4)).unflatten(0, (2, 2)).requires_grad_()
    mask = torch.tensor([[True, True], [True, False]])
    answer(backbone, tokens, [CUP, HAND], mask).log_softmax(1)[:, 0].sum().backward()
    learning = backbone.trainable()
    silent = [name for name, p in learning.items() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias of keys shifts all scores of a query alike, which the softmax forgets.
    assert [name for name in silent if not name.endswith("key.bias")] == []
    assert all(p.grad is None for name, p in backbone.named_parameters() if name not in learning)
    assert {name.split(".")[1] for name in learning if name.startswith("model.")} == {
        "query_tokens", "qformer", "language_projection",
    }  # fmt: skip
    assert {"scale", "shift"} < set(learning)
    assert tokens.grad[mask].abs().sum((1, 2)).gt(0).all()
    assert (tokens.grad[~mask] == 0).all()
    backbone.zero_grad()


def test_training_has_dropout_in_the_qformer_alone(folders, kind):
    backbone = TransformersBackbone.load(folders[kind])
    tokens, mask, text = backbone.see(pictures(1))[None], torch.ones(1, 1, dtype=torch.bool), backbone.read([CUP])
    visual = backbone.look(tokens, text, mask)
    scores = backbone.score(visual, text, mask)
    assert backbone.train() is backbone
    assert not torch.equal(backbone.look(tokens, text, mask), backbone.look(tokens, text, mask))
    assert torch.equal(backbone.score(visual, text, mask), scores)
    backbone.eval()
    assert torch.equal(backbone.look(tokens, text, mask), visual)


def test_as_released_compares_five_letters_whatever_options_there_are(folders, backbone, kind):
    released = TransformersBackbone.load(folders[kind], as_released=True)
    tokens, mask = backbone.see(pictures(2))[None], torch.ones(1, 2, dtype=torch.bool)
    ours, theirs = (answer(b, tokens, [CUP], mask) for b in (backbone, released))
    assert (ours.shape, theirs.shape) == ((1, 2), (1, 5))
    assert torch.equal(ours, theirs[:, :2])
    assert theirs.isfinite().all()


def test_a_long_prompt_is_refused_and_as_released_loses_its_end(folders):
    folder = folders["instructblip-t5"]
    long = Prompt("the cup " * 60, ("left", "right"))
    with pytest.raises(ValueError, match=r"has 1\d\d tokens, and 128 are read: load .* greater max_tokens"):
        TransformersBackbone.load(folder).read([CUP, long])
    assert TransformersBackbone.load(folder, max_tokens=200).read([long]).mask.sum() > 128
    cut = TransformersBackbone.load(folder, as_released=True).read([long])
    assert (cut.ids.shape, cut.qformer_ids.shape) == ((1, 128), (1, 128))
    with pytest.raises(ValueError, match=r"max_tokens is 1 to 200, the Q-Former's positions, got 201"):
        TransformersBackbone.load(folder, max_tokens=201)


def test_more_frames_than_a_language_model_has_positions_for_are_refused(backbones):
    backbone = backbones["blip-2-opt"]
    text, mask = backbone.read([KEY]), torch.ones(1, 100, dtype=torch.bool)
    with pytest.raises(ValueError, match=f"language model reads {POSITIONS}: keep fewer frames"):
        backbone.score(torch.zeros(1, 100, QUERIES, 20), text, mask)


def test_words_that_spell_the_image_token_are_words(backbone):
    (image,) = backbone.tokenizer("<image>", add_special_tokens=False)["input_ids"]
    text = backbone.read([Prompt("what is <image> ?", ("<image>", "none"))])
    assert image == backbone.model.config.image_token_index
    assert not (text.ids == image).any()
    assert not (text.question_ids == image).any()
    with pytest.raises(ValueError, match="no prompt"):
        backbone.read([])


def test_frozen_parts_take_another_type_and_what_learns_stays_float32(folders, backbone, kind):
    small = TransformersBackbone.load(folders[kind], dtype=torch.bfloat16)
    assert small.model.vision_model.dtype == torch.bfloat16
    assert small.model.language_model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert {p.dtype for p in small.trainable().values()} == {torch.float32}
    frames, mask = pictures(2), torch.ones(1, 2, dtype=torch.bool)
    exact, rough = (answer(b, b.see(frames)[None], [HAND], mask) for b in (backbone, small))
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("kind", ["instructblip-t5", "blip-2-opt"])
def test_lora_changes_nothing_until_it_has_learned(folders, backbones, kind):
    backbone = TransformersBackbone.load(folders[kind], lora=LoRA(rank=2, alpha=4, dropout=0.5))
    tokens, mask = backbone.see(pictures(1))[None], torch.ones(1, 1, dtype=torch.bool)
    before = answer(backbone, tokens, [CUP], mask)
    torch.testing.assert_close(before, answer(backbones[kind], tokens, [CUP], mask))
    before[:, 0].sum().backward()
    added = {name: p for name, p in backbone.trainable().items() if ".language_model." in name}
    assert len(added) == 2 * len(backbone.adapters) > 0
    assert all(p.grad.abs().sum() > 0 for name, p in added.items() if name.endswith(".up"))
    with torch.no_grad():
        for name, parameter in added.items():
            parameter.normal_() if name.endswith(".up") else None
    after = answer(backbone, tokens, [CUP], mask)
    assert (after - before).abs().max() > 1e-3
    assert not torch.equal(answer(backbone.train(), tokens, [CUP], mask), answer(backbone, tokens, [CUP], mask))
    assert torch.equal(answer(backbone.eval(), tokens, [CUP], mask), after)


def test_loading_touches_no_network(folders, kind, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    TransformersBackbone.load(folders[kind])


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: shutil.rmtree(f), FileNotFoundError, "is no folder.*nothing is downloaded"),
        (lambda f: (f / "config.json").unlink(), FileNotFoundError, "has no config.json"),
        (lambda f: (f / "config.json").write_text("{}"), ValueError, "names no model_type"),
        (lambda f: change(f / "config.json", model_type="llava"), ValueError, "is a checkpoint of 'llava'"),
        (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, "has neither model.safetensors nor"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), ValueError, "pickle.*not opened"),
        (lambda f: shard(f, "weights.bin"), ValueError, r"its weights in weights.bin. A pickle"),
        (lambda f: truncate(f / "model.safetensors"), ValueError, "cannot be loaded as a checkpoint of InstructBlip"),
        (lambda f: lose(f / "model.safetensors", "query_tokens"), ValueError, "lacks 1 tensors.*query_tokens"),
        (lambda f: shutil.rmtree(f / "qformer_tokenizer"), ValueError, "cannot be loaded"),
        (lambda f: (f / "tokenizer.json").unlink(), ValueError, "cannot be loaded"),
        (lambda f: resize(f / "processor_config.json"), ValueError, r"frames of \(42, 42\) pixels.*takes \(28, 28\)"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_whole_checkpoint_is_refused(folders, tmp_path, spoil, error, message):
    folder = shutil.copytree(folders["instructblip-t5"], tmp_path / "checkpoint")
    spoil(folder)
    with pytest.raises(error, match=message):
        TransformersBackbone.load(folder)


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def resize(path):
    image_processor = json.loads(path.read_text())["image_processor"]
    change(path, image_processor=image_processor | {"size": {"height": 42, "width": 42}})


def shard(folder, name):
    """One shard of a folder's weights, and an index that says where they are."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        names = list(file.keys())
    (folder / "model.safetensors").rename(folder / name)
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def lose(path, name):
    from safetensors.torch import load_file, save_file

    save_file({key: value for key, value in load_file(path).items() if key != name}, path, metadata={"format": "pt"})


def test_weights_may_lie_in_several_files(folders, backbones, tmp_path):
    folder = shutil.copytree(folders["blip-2-opt"], tmp_path / "checkpoint")
    shard(folder, "model-00001-of-00001.safetensors")
    loaded, expected = TransformersBackbone.load(folder).state_dict(), backbones["blip-2-opt"].state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())


def test_a_name_of_a_hub_is_no_folder():
    with pytest.raises(FileNotFoundError, match=r"someone/some-model is no folder.*nothing is downloaded"):
        TransformersBackbone.load("someone/some-model")


def test_a_tokenizer_that_splits_letters_is_refused(backbones):
    backbone = backbones["blip-2-opt"]
    characters = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"<unk>": 0, "Answer:": 1, "Option": 2, "A": 3}, unk_token="<unk>")
    )
    characters.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=characters, unk_token="<unk>")
    with pytest.raises(ValueError, match="not one token for each of A, B, C, D, E behind 'Answer: Option'"):
        TransformersBackbone(backbone.model, image_processor=backbone.image_processor, tokenizer=tokenizer)
