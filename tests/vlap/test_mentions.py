"""Which things a text speaks of: what counts as named, how it is looked for, and that it can be learned."""

import math
from itertools import permutations

import pytest
import torch
from torch import nn

from vkdlab.data.dense import OBJECTS
from vkdlab.data.sentences import sentence_features
from vkdlab.runs import Run
from vkdlab.training import evaluate, fit
from vkdlab.training_config import Data, TrainConfig
from vkdlab.vlap.mentions import MentionBatch, Mentioned, Mentions, MentionTexts, MentionTraining, named, things_of

CLASSES = ("table", "red cup", "white cup", "white ball", "blue duck", "hand")
NAMES = ["red cup", "white cup", "white ball", "blue duck"]
DIM = 16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What happens to the red cup?", [["red cup"]]),
        ("the small RED Mug", [["red cup"]]),
        ("a blue rubber duck", [["blue duck"]]),
        ("the white striped ball", [["white ball"]]),
        ("What is done to the mug?", [["red cup", "white cup"]]),
        ("the white object", [["white cup", "white ball"]]),
        ("the blue thing hits the cup", [["blue duck"], ["red cup", "white cup"]]),
        ("a duck, a duck, a red cup", [["blue duck"], ["blue duck"], ["red cup"]]),
        ("Which object hits something?", []),
        ("the first thing that happens", []),
        ("the red ball", []),  # there is none
        ("the red dish", []),  # no bowl is among the classes
        ("the red one, then a bowl", []),
        ("ducking cups of whitewater, a footballer", []),
        ("a red, cup", [["red cup", "white cup"]]),
        ("", []),
    ],
)
def test_things_are_named_by_a_quality_or_a_noun_of_their_class_or_both(text, expected):
    assert named(text, names=NAMES) == expected


def test_classes_of_two_words_are_things():
    assert things_of(CLASSES) == NAMES
    assert set(OBJECTS) - set(things_of(OBJECTS)) == {"table", "hand", "cloth"}
    assert all(named(f"it is the {name}", names=things_of(OBJECTS)) == [[name]] for name in things_of(OBJECTS))
    with pytest.raises(ValueError, match=r"as 'red cup' is: \['table', 'hand'\]"):
        things_of(["table", "hand"])


def words_of(*texts):
    """Vectors of made-up words: word 3 is the unit vector 3, times a hundred."""
    words = torch.zeros(len(texts), max(map(len, texts)), 384)
    for row, text in zip(words, texts, strict=True):
        row[torch.arange(len(text)), torch.tensor(text)] = 100.0
    return words, torch.arange(words.shape[1]) < torch.tensor([len(text) for text in texts])[:, None]


def told(*, after=0.0, null=0.0):
    """Its first thing are words 0, its second ones words 1; it tells where they stood by what is looked up."""
    mentions = Mentions(384, hidden=2)
    for parameter in mentions.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        mentions.key.weight[:, :2] = 0.1 * torch.eye(2)
        mentions.queries.copy_(torch.eye(2))
        mentions.after[1], mentions.null[:] = after, null
        mentions.out.weight.copy_(torch.eye(384) / 100)
    return mentions


@torch.no_grad()
def test_a_thing_is_the_words_that_its_query_looks_for():
    found = told()(*words_of([5, 0, 6, 1, 7]))
    first, second = found.vectors[0]
    others = 4 + math.exp(10) + 1  # other words, the right one, and the null word
    assert first[0].item() == pytest.approx(math.exp(10) / others)
    assert first[6].item() == pytest.approx(1 / others)
    assert second[1].item() == pytest.approx(math.exp(10) / others)
    torch.testing.assert_close(found.there, torch.full((1, 2), 1 - 1 / others))


@torch.no_grad()
def test_the_second_thing_is_looked_for_behind_the_first():
    mentions = told()
    mentions.key.weight[1, 2] = 0.1  # words 1 and 2 are as good for a second thing
    words = words_of([1, 5, 0, 6, 2])
    anywhere = mentions(*words).vectors[0, 1]
    assert anywhere[1].item() == pytest.approx(0.5, abs=0.01)
    assert anywhere[2].item() == pytest.approx(0.5, abs=0.01)
    mentions.after[1] = 8.0
    behind = mentions(*words).vectors[0, 1]
    assert behind[2] > 0.99
    assert behind[1] < 0.01
    assert mentions(*words).vectors[0, 0, 0] > 0.99


@torch.no_grad()
def test_a_text_that_speaks_of_nothing_finds_nothing():
    there = told(null=5.0)(*words_of([5, 0, 6], [5, 6, 7], [0, 1, 7])).there
    assert there[0, 0] > 0.95
    assert there[1].max() < 0.05
    assert there[2].min() > 0.95
    empty = told()(torch.zeros(1, 3, 384), torch.zeros(1, 3, dtype=torch.bool))
    assert not empty.there.any()
    assert not empty.vectors.any()


@torch.no_grad()
def test_words_that_only_pad_have_no_influence():
    mentions, words = Mentions(DIM, things=3), torch.randn(2, 4, 384)
    nn.init.normal_(mentions.after)
    short = mentions(words, torch.tensor([[True] * 4, [True] * 4]))
    padded = torch.cat([words, torch.randn(2, 6, 384)], 1)
    long = mentions(padded, torch.arange(10).expand(2, -1) < 4)
    torch.testing.assert_close(long.vectors, short.vectors)
    torch.testing.assert_close(long.there, short.there)
    assert short.vectors.shape == (2, 3, DIM)


@pytest.mark.parametrize("sizes", [{"dim": 0}, {"dim": 4, "things": 0}, {"dim": 4, "hidden": 0}])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match="dim, things and hidden must be at least 1"):
        Mentions(**sizes)


TEXTS = [
    text.format(first, second)
    for first, second in permutations(NAMES, 2)
    for text in (
        "What happens to the {}?",
        "the {}",
        "the {0} hits the {1}",
        "Does the {0} fall on the {1}?",
        "it spins",
    )
] + ["Which object spins?", "once", "twice", "What happens next?", "something hits something else"]


def texts_of(*texts):
    sentences = sentence_features(sorted(set(texts)), progress=False)
    return MentionTexts(texts, classes=CLASSES, sentences=sentences)


@pytest.fixture(scope="module")
def texts():
    return texts_of(*TEXTS, TEXTS[0], "a mug beside a white object and a duck")


def training(mentions):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return MentionTraining(mentions, nn.Linear(384, DIM, bias=False), classes=CLASSES, progress=False)


def test_texts_become_batches_of_words_and_of_classes_that_are_right(texts):
    assert texts.texts == sorted({*TEXTS, "a mug beside a white object and a duck"})
    three, nothing = texts.texts.index("a mug beside a white object and a duck"), texts.texts.index("once")
    batch = texts.collate([texts[three], texts[nothing]])
    assert len(batch) == 2
    assert batch.right[0].tolist() == [[True, True, False, False], [False, True, True, False]]  # no room for a third
    assert not batch.right[1].any()
    assert batch.mask.sum(1).tolist() == [9, 1]
    assert batch.words.shape == (2, 9, 384)
    assert not batch.words[1, 1:].any()
    torch.testing.assert_close(batch.words[batch.mask].square().mean(1), torch.ones(10))
    assert {tensor.device.type for tensor in batch.to("meta")} == {"meta"}


def test_other_texts_have_another_fingerprint(texts):
    sentences = sentence_features(texts.texts, progress=False)
    fewer, same = (MentionTexts(said, classes=CLASSES, sentences=sentences) for said in (TEXTS[:3], texts.texts))
    assert same.fingerprint == texts.fingerprint != fewer.fingerprint


class Given(Mentions):
    """Finds what it is given, whatever the words are."""

    def forward(self, words, mask):
        return self.given


def test_the_loss_is_how_unsure_it_is_of_right_classes_and_of_there_being_any():
    mentions = Given(DIM)
    method, right = training(mentions), torch.zeros(3, 2, 4, dtype=torch.bool)
    right[0, 0, 1], right[0, 1, 1:3], right[1, 0, 3] = True, True, True
    mentions.given = Mentioned(torch.randn(3, 2, DIM), torch.rand(3, 2))
    batch = MentionBatch(torch.zeros(3, 1, 384), torch.ones(3, 1, dtype=torch.bool), right)
    unsure, there = [], []
    for text in range(3):
        for thing in range(2):
            cosines = torch.cosine_similarity(mentions.given.vectors[text, thing], method.looked_up, dim=1)
            share, said = (16 * cosines).softmax(0)[right[text, thing]].sum(), mentions.given.there[text, thing]
            if right[text, thing].any():
                unsure.append(-share.log())
            there.append(-(said if right[text, thing].any() else 1 - said).log())
    found = method.loss(batch)
    torch.testing.assert_close(found["named"], sum(unsure) / 3)
    torch.testing.assert_close(found["there"], sum(there) / 6)
    torch.testing.assert_close(found["total"], found["named"] + found["there"])


def test_a_thing_counts_as_found_where_it_is_said_to_be_there_and_its_class_is_right():
    mentions = Given(DIM)
    method, right = training(mentions), torch.zeros(4, 2, 4, dtype=torch.bool)
    right[0, 0, 1], right[0, 1, 1:3], right[1, 0, 3], right[2, 0, 0] = True, True, True, True
    vectors = torch.zeros(4, 2, DIM)
    vectors[0, 0], vectors[0, 1] = method.looked_up[1], 3 * method.looked_up[2]  # both right
    vectors[1, 0], vectors[2, 0] = method.looked_up[3], method.looked_up[1]  # right but missed; another class
    there = torch.tensor([[0.9, 0.6], [0.4, 0.1], [0.9, 0.7], [0.0, 0.2]])
    mentions.given = Mentioned(vectors, there)
    found = method.evaluate(MentionBatch(torch.zeros(4, 1, 384), torch.ones(4, 1, dtype=torch.bool), right))
    assert (found["found"].sum, found["found"].count) == (2, 4)
    assert (found["missed"].sum, found["missed"].count) == (3, 4)


def test_texts_that_name_nothing_teach_that_alone(texts):
    mentions = Mentions(DIM)
    method = training(mentions)
    nothing = texts.collate([texts[texts.texts.index(text)] for text in ("once", "it spins")])
    loss = method.loss(nothing)
    assert loss["named"] == 0
    loss["total"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in mentions.parameters())
    assert mentions.null.grad.abs().min() > 0


def test_it_is_learned_from_a_few_texts(texts):
    others = texts_of("Who sees the red mug?", "it is the white cup", "the duck hits a ball", "never")
    method, batch = training(Mentions(DIM)), texts.collate(list(texts))
    assert method.evaluate(batch)["found"].value < 0.4
    optimiser = torch.optim.Adam(method.mentions.parameters(), 1e-2)
    for _ in range(80):
        loss = method.loss(batch)["total"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        learned, unseen = method.evaluate(batch), method.evaluate(others.collate(list(others)))
    assert learned["found"].value > 0.75
    assert learned["missed"].value > 0.75
    assert unseen["found"].value >= 0.75


def test_it_is_trained_as_every_method_is(texts, tmp_path):
    others = texts_of("Who sees the red mug?", "never")
    method, data = training(Mentions(DIM)), Data(texts, others)
    config = TrainConfig(epochs=2, batch_size=8, monitor="found", device="cpu")
    run = Run.open("mentions", {"dim": DIM}, data=data.fingerprint, runs_dir=tmp_path)
    history = fit(method, data, config, run=run, progress=False)
    found = evaluate(method, others, device="cpu", progress=False)
    assert found["found"].value == history.best["val/found"]
    assert (found["found"].count, found["missed"].count) == (1, 3)


def test_texts_without_any_thing_or_that_were_not_encoded_are_refused():
    with pytest.raises(ValueError, match="none of 2 texts names a thing such as 'red cup'"):
        texts_of("once", "the red ball", "once")
    sentences = sentence_features(["the red cup"], progress=False)
    with pytest.raises(ValueError, match="no class is named by a quality and a noun"):
        MentionTexts(["the red cup"], classes=("table", "hand"), sentences=sentences)
    with pytest.raises(KeyError, match="'the white cup' was not encoded"):
        MentionTexts(["the red cup", "the white cup"], classes=CLASSES, sentences=sentences)
