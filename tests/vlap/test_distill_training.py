"""Whole trainings in small: the prompter finds the frames that a question needs, and a training that stops goes on."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from tests.tiny import same_weights
from tests.vlap.small_questions import GLANCE_DIM, Glance, SmallBackbone, batch_of, films
from tests.vlap.tiny_checkpoints import CUP, HAND, write_checkpoint
from vkdlab.runs import Run
from vkdlab.training import Data, TrainConfig, fit
from vkdlab.vlap import Prompt, TransformersBackbone
from vkdlab.vlap.batches import QuestionDataset
from vkdlab.vlap.distill import VLAP, Config
from vkdlab.vlap.prompter import FramePrompter
from vkdlab.vlap.selectors import uniform
from vkdlab.vlap.store import frame_store

CONFIG = Config(select=3, frames=12)


def marked(count, *, generator):
    """Videos of frames about one of two subjects, which thumbnails show; those about the one that is asked about show
    the right option, the others any. Of each two frames in a row one is about either subject.
    """
    batch = batch_of([8] * count, seed=int(torch.randint(2**31, (), generator=generator)))
    asked, answers = torch.randint(2, (2, count, 1), generator=generator)
    subjects = torch.randint(2, (count, 4, 1), generator=generator)
    subjects = torch.cat([subjects, 1 - subjects], 2).flatten(1)
    needed = subjects == asked
    shown = torch.where(needed, answers, torch.randint(2, (count, 8), generator=generator))
    tokens, glances = 0.1 * batch.tokens, 0.1 * batch.glances
    tokens[:, :, 0, :2] += 3 * functional.one_hot(shown, 2)
    glances[:, :, 0, :2] += 3 * functional.one_hot(subjects, 2)
    prompts = tuple(Prompt(("what moves?", "where then?")[i], ("x", "yy")) for i in asked.flatten().tolist())
    return replace(batch, tokens=tokens, glances=glances, prompts=prompts, answers=answers.flatten()), needed


def test_a_prompter_learns_from_answers_alone_which_frames_a_question_needs():
    torch.manual_seed(0)
    method = VLAP(
        SmallBackbone(), FramePrompter(GLANCE_DIM, question_dim=7, hidden=16, heads=2),
        config=Config(select=4, frames=8, last_temperature=0.3), steps=150,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(method.parameters(), lr=0.01)
    method.train()
    for _ in range(150):
        batch, _ = marked(64, generator=generator)
        optimiser.zero_grad()
        method.loss(batch)["total"].backward()
        optimiser.step()
    batch, needed = marked(200, generator=generator)
    answer = method.eval()(batch)
    assert needed.gather(1, answer.selection.indices).float().mean() > 0.95
    assert method.evaluate(batch)["accuracy"].value > 0.95
    spread = method(batch, selection=uniform(batch.mask, select=4)).logits.argmax(1)
    assert (spread == batch.answers).float().mean() < 0.9


def test_instructblip_learns_to_answer_with_a_prompter_and_a_teacher(tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("tokenizers")
    folder = write_checkpoint(tmp_path, "instructblip-t5")
    student, teacher = (TransformersBackbone.load(folder) for _ in range(2))
    batch = batch_of([12, 9])
    tokens = torch.randn(2, 12, student.frame_tokens, student.frame_dim)
    batch = replace(batch, tokens=tokens, prompts=(CUP, HAND))
    prompter = FramePrompter(GLANCE_DIM, question_dim=student.question_dim, hidden=8, heads=2)
    method = VLAP(student, prompter, config=CONFIG, teacher=teacher, steps=2).train()
    losses = method.loss(batch)
    losses["total"].backward()
    assert losses["distillation"] > 0
    assert student.model.query_tokens.grad.any()
    assert prompter.out[1].weight.grad.any()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert method.evaluate(batch)["accuracy"].count == 2


class Stops(VLAP):
    """Is stopped by a fault at a step."""

    at = None

    def loss(self, batch):
        if self.training and self.step.item() == self.at:
            raise RuntimeError("the power went")
        return super().loss(batch)


def test_a_training_with_fit_runs_and_goes_on_after_a_fault_with_the_same_weights(tmp_path):
    see, glance = SmallBackbone().see, Glance()
    parts = [films(tmp_path, split="train", count=6), films(tmp_path, split="val", count=2)]
    store = frame_store(parts, see, glance, count=12, size=(32, 24), folder=tmp_path / "store", progress=False)
    data = Data(*(QuestionDataset(part, store, mirrored=i == 0, columns=(3, 1)) for i, part in enumerate(parts)))
    config = TrainConfig(epochs=2, batch_size=6, lr=0.01, monitor="accuracy", device="cpu")

    def method():
        torch.manual_seed(0)
        prompter = FramePrompter(GLANCE_DIM, question_dim=7, hidden=8, heads=2)
        return Stops(SmallBackbone(), prompter, config=CONFIG, teacher=SmallBackbone(seed=1), steps=6)

    def run(name):
        return Run.open(name, config, data=data.fingerprint, runs_dir=tmp_path / "runs")

    expected = method()
    history = fit(expected, data, config, run=run("whole"), progress=False)
    assert {"loss/total", "loss/answer", "loss/distillation", "val/accuracy", "val/accuracy a"} <= set(history.rows[0])
    assert expected.step.item() == 3 * history.best_epoch
    stopped = method()
    stopped.at = 4
    with pytest.raises(RuntimeError, match="the power went"):
        fit(stopped, data, config, run=run("stopped"), progress=False)
    resumed = method()
    again = fit(resumed, data, config, run=run("stopped"), progress=False)
    assert same_weights(resumed, expected)
    assert [row["loss/total"] for row in again.rows] == [row["loss/total"] for row in history.rows]
