"""Distilling from answers that were kept, against asking the teachers again at every step."""

import time

import torch

from vkdlab.data.prepared import prepare_grounding
from vkdlab.emtm import AggregateConfig, Config, SpanConfig, collect, fit_aggregator, unify
from vkdlab.emtm.distill import EMTM
from vkdlab.emtm.labelled import DistillationDataset, Label, Part
from vkdlab.emtm.teachers import RECIPES, TEACHERS, build_teacher

from .records import Figure, record

FASTER = 4
BATCHES = 24


def test_an_epoch_with_kept_answers_is_faster_than_one_that_runs_the_teachers():
    """The same steps of the same student, in turns; only where the label comes from differs."""
    splits = prepare_grounding("tabletop", profile="demo")
    recipe = RECIPES["demo"]
    teachers = {name: build_teacher(spec, splits.train, recipe, seed=0).eval() for name, spec in TEACHERS.items()}
    outputs = collect(teachers, splits.train)
    mean = fit_aggregator(outputs, AggregateConfig(mode="uniform", calibrate=False, pooling="linear"))
    dataset = DistillationDataset([Part.of(splits.train, Label.join(mean.integrate(outputs)))])
    student = SpanConfig(video_dim=splits.train.dim, dim=recipe.dim, heads=recipe.heads, dual_layers=0, dropout=0.3)
    method = EMTM(Config(student=student, shared_encoder=False)).train()
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-3)
    rows = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).split(recipe.training.batch_size)
    rows = [part.tolist() for part in rows[:BATCHES]]
    parts = {"kept": 0.0, "asked": 0.0}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for part in rows:
            for way in ("kept", "asked"):
                started = time.process_time()
                batch = dataset.collate([dataset[row] for row in part])
                if way == "asked":
                    with torch.no_grad():
                        said = [
                            unify(teacher(batch), length=batch.video.shape[1], mask=batch.video_mask)
                            for teacher in teachers.values()
                        ]
                    batch.label_start = torch.stack([each.start for each in said]).mean(0)
                    batch.label_end = torch.stack([each.end for each in said]).mean(0)
                loss = method.loss(batch)["total"]
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                parts[way] += time.process_time() - started
    finally:
        torch.set_num_threads(threads)
    record(
        "distillation_epoch",
        what=f"{len(rows)} steps of {recipe.training.batch_size} queries of tabletop, demo size, one thread, in turns: "
        "the student's step with labels that were kept, and with four teachers run, unified and averaged for it; "
        "processor time",
        figures=[
            Figure(
                "steps with kept labels, against running the teachers", parts["kept"] / parts["asked"], 1 / FASTER, "x"
            )
        ],
        seconds=parts,
    )
    assert parts["kept"] < parts["asked"]
