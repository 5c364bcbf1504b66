"""Naming: which class a cell has, what is said of it, and that an encoder learns it."""

import pytest
import torch
from torch import nn

from vkdlab.data.dense import OBJECTS, VOID, load_dense
from vkdlab.data.dense_batches import Augmentation, Clips, DenseBatch, TrainingFrames
from vkdlab.data.sentences import sentence_features
from vkdlab.runs import Run
from vkdlab.training import evaluate, fit
from vkdlab.training_config import Data, TrainConfig
from vkdlab.vlap.mentions import Mentions
from vkdlab.vlap.naming import Naming, cell_labels, phrases
from vkdlab.vlap.networks import CompactBackbone, CompactConfig, FrameEncoder

CLASSES = ("table", "red cup", "blue ball")
COLOURS = torch.tensor([[120, 100, 80], [220, 30, 30], [30, 30, 220]])


@pytest.fixture(scope="module")
def naming():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Naming(FrameEncoder(4, dim=12), classes=CLASSES, progress=False)


def painted(count=6, rows=4, columns=6):
    """Frames of noisy tiles, a class each; the answer is the colour."""
    tiles = torch.randint(0, 3, (count, rows, columns))
    labels = tiles.repeat_interleave(8, 1).repeat_interleave(8, 2)
    frames = (COLOURS[labels] + torch.randint(-10, 11, (*labels.shape, 3))).permute(0, 3, 1, 2).float() / 255
    return DenseBatch(frames.clamp(0, 1)[:, None], labels[:, None])


def test_a_cell_has_the_class_of_most_pixels_and_a_things_pixel_counts_four_times():
    cells = torch.zeros(1, 16, 32, dtype=torch.long)
    flat = cells.view(2, 8, 4, 8).transpose(1, 2).reshape(8, 64)
    flat[0, :14] = 1  # 14 against 50 / 4
    flat[1, :12] = 1  # 12 against 52 / 4
    flat[2, :30], flat[2, 30:] = 1, 2  # 30 against 34
    flat[3, :60] = VOID  # of what is known, all is table
    flat[4, :] = VOID
    flat[5, :20], flat[5, 20:35] = 2, 1
    flat[6, :63], flat[6, 63] = VOID, 2
    labels = flat.view(2, 4, 8, 8).transpose(1, 2).reshape(1, 16, 32)
    assert cell_labels(labels, classes=3).tolist() == [[1, 0, 2, 0, VOID, 2, 2, 0]]


def test_labels_that_are_no_class_are_refused():
    with pytest.raises(ValueError, match=r"0 to 2, or 255 where none is known, got tensor\(\[0, 3\]\)"):
        cell_labels(torch.tensor([0, 3]).repeat_interleave(64).view(1, 8, 16), classes=3)


def test_a_class_is_spoken_of_by_all_its_nouns():
    said = phrases("red cup")
    assert said[0] == "the red cup"
    assert {"the red mug", "red mug", "What happens to the red cup?"} <= set(said)
    assert phrases("hand")[0] == "the hand"
    every = [phrase for name in OBJECTS for phrase in phrases(name)]
    assert len(every) == len(set(every))


def test_the_loss_falls_and_cells_are_named(naming):
    other = painted()
    optimiser = torch.optim.Adam(naming.parameters(), 1e-2)
    first = naming.loss(other)["total"].item()
    for _ in range(100):
        loss = naming.loss(painted(16))["total"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.3 * first
    naming.eval()
    with torch.no_grad():
        found = naming.evaluate(other)
    assert found["named"].value > 0.9
    assert found["table"].value > 0.9
    assert found["named"].count + found["table"].count == 6 * 24
    assert found["named"].count == (other.labels[:, 0, ::8, ::8] > 0).sum()


def test_cells_of_which_nothing_is_known_count_nowhere(naming):
    naming.eval()
    batch = painted(2)
    half = DenseBatch(batch.frames, batch.labels.clone())
    half.labels[..., 24:] = VOID
    with torch.no_grad():
        found, whole = naming.evaluate(half), naming.evaluate(batch)
    assert found["named"].count + found["table"].count == 24
    assert found["named"].count <= whole["named"].count
    with pytest.raises(ValueError, match="these frames have no labels"):
        naming.loss(DenseBatch(batch.frames, None))


def test_the_metric_is_the_share_of_cells_whose_first_phrase_is_most_similar(naming):
    naming.eval()
    batch = painted(3)
    with torch.no_grad():
        tokens = naming.encoder((batch.frames[:, 0].permute(0, 2, 3, 1) * 255).round().to(torch.uint8))
        names = naming.words(naming.phrases[:, 0])
        guessed = torch.cosine_similarity(tokens[:, :, None], names, dim=3).argmax(2)
        found = naming.evaluate(batch)["named"]
    truth = batch.labels[:, 0, ::8, ::8].flatten(1)
    assert found.sum == ((guessed == truth) & (truth > 0)).sum()


def test_every_phrase_is_said_at_some_time_and_none_that_is_not_there(naming):
    assert naming.phrases.norm(dim=2).sub(1).abs().lt(1e-2).sum(1).tolist() == naming.counts.tolist()
    assert naming.counts.tolist() == [len(phrases(name)) for name in CLASSES]
    naming.words.weight.grad = None
    naming.loss(painted(1))["total"].backward()
    assert naming.words.weight.grad.any()


def test_it_trains_on_the_built_in_worlds_frames_and_makes_a_backbone(tmp_path):
    train, val = (
        load_dense(
            "tabletop", split, profile="smoke", size=(48, 32), classes="objects", videos=1, every=12, progress=False
        )
        for split in ("train", "val")
    )
    data = Data(TrainingFrames(train, augmentation=Augmentation(zoom=(1, 1), shift=0)), Clips(val))
    method = Naming(FrameEncoder(4, dim=12), classes=train.classes, progress=False)
    config = TrainConfig(epochs=2, batch_size=4, monitor="named", precision="bf16-mixed", device="cpu")
    run = Run.open("naming", {"width": 4}, data=data.fingerprint, runs_dir=tmp_path)
    history = fit(method, data, config, run=run, progress=False)
    assert len(history.rows) == 2
    named = evaluate(method, data.val, device="cpu", progress=False)["named"]
    assert named.value == pytest.approx(history.best["val/named"])
    assert named.count > 0
    always, config = method.looked_up(["hand", "cloth"]), CompactConfig(grid=(6, 4), hidden=8, heads=2)
    backbone = CompactBackbone(method.encoder, Mentions(12), always=always, config=config)
    frames = torch.from_numpy(train.frames[:2].copy())
    torch.testing.assert_close(backbone.see(frames), method.encoder.eval()(frames))


def test_words_that_are_given_are_kept_as_they_are_and_the_encoder_learns_them():
    words = nn.Linear(384, 12, bias=False)
    before = words.weight.detach().clone()
    method = Naming(FrameEncoder(4, dim=12), classes=CLASSES, words=words, progress=False)
    assert {name.split(".")[0] for name, p in method.named_parameters() if p.requires_grad} == {"encoder"}
    assert words.weight.requires_grad
    batch = painted()
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], 1e-2)
    first = method.loss(batch)["total"].item()
    for _ in range(30):
        loss = method.loss(batch)["total"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.7 * first
    assert torch.equal(method.words.weight, before)
    words.weight.data.zero_()
    assert method.words.weight.any()


def test_a_class_is_looked_up_by_the_vector_that_names_it(naming):
    found = naming.looked_up(["blue ball", "table"])
    vectors = sentence_features(["the blue ball", "the table"], progress=False)
    said = torch.stack([vectors.embedding("the blue ball"), vectors.embedding("the table")])
    torch.testing.assert_close(found, said @ naming.words.weight.detach().T)
    assert not found.requires_grad
    assert naming.looked_up([]).shape == (0, 12)
    with pytest.raises(ValueError, match="there are the classes table, red cup, blue ball, not hand, red"):
        naming.looked_up(["hand", "table", "red"])


@pytest.mark.parametrize(("given", "dim"), [(384, 10), (300, 12)])
def test_words_that_do_not_fit_the_encoder_are_refused(given, dim):
    with pytest.raises(ValueError, match=f"384 numbers to the encoder's 12, got {given} to {dim}"):
        Naming(FrameEncoder(4, dim=12), classes=CLASSES, words=nn.Linear(given, dim), progress=False)


def test_one_class_is_nothing_to_tell_apart():
    with pytest.raises(ValueError, match=r"at least two classes to tell apart, got \['table'\]"):
        Naming(FrameEncoder(4, dim=4), classes=("table",), progress=False)
