from dataclasses import replace

import pytest
import torch

from tests.data.test_grounding import dataset, sentences, store
from vkdlab.data.grounding import GroundingDataset
from vkdlab.emtm.moments import best_moments
from vkdlab.emtm.networks import SpanConfig, SpanNetwork
from vkdlab.emtm.outputs import Boundaries
from vkdlab.emtm.teacher import GroundingTeacher
from vkdlab.emtm.teacher_outputs import TeacherOutputs, collect, decode
from vkdlab.metrics import temporal_iou


def made(*, count=4, teachers=("a", "b", "c"), length=6, name="q", seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(length) < torch.randint(1, length + 1, (count, 1), generator=generator)
    logits = torch.randn(2, count, len(teachers), length, generator=generator)
    start, end = logits.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
    return TeacherOutputs(
        names=teachers,
        ids=tuple(f"{name}{row}" for row in range(count)),
        start=start,
        end=end,
        mask=mask,
        moments_s=torch.rand(count, len(teachers), 2, generator=generator).sort(-1).values * 10,
        duration_s=torch.full((count,), 10.0),
        truth_s=torch.rand(count, 2, generator=generator).sort(-1).values * 10,
    )


@pytest.fixture(scope="module")
def grounding(tmp_path_factory):
    return GroundingDataset(dataset(), store(tmp_path_factory.mktemp("made") / "store"), sentences(), max_clips=16)


def teacher(*, seed, video_dim=6, columns=None):
    torch.manual_seed(seed)
    config = SpanConfig(video_dim=video_dim, dim=16, heads=2, conv_layers=1, max_clips=16, dropout=0.5)
    return GroundingTeacher(SpanNetwork(config), columns=columns)


def test_collecting_asks_every_teacher_about_every_query_on_the_grid_of_the_data_set(grounding):
    teachers = {"one": teacher(seed=0), "two": teacher(seed=1, video_dim=2, columns=(1, 3))}
    found = collect(teachers, grounding, batch_size=4, progress=False)
    assert found.names == ("one", "two")
    assert found.ids == tuple(query.id for query in grounding.dataset.queries)
    assert found.start.shape == found.end.shape == (9, 2, 16)
    assert found.num_clips.tolist() == [1] * 3 + [10] * 3 + [16] * 3
    for row, item in enumerate(grounding):
        batch = grounding.collate([item])
        for place, one in enumerate(teachers.values()):
            with torch.no_grad():
                output = one.eval()(batch)
            count = batch.video_mask.sum()
            start, end = output.start_logits.softmax(1), output.end_logits.softmax(1)
            torch.testing.assert_close(found.start[row, place, :count], start[0], atol=1e-5, rtol=1e-4)
            assert not found.start[row, place, count:].any()
            moments, _ = best_moments(start, end, duration_s=batch.duration_s, mask=batch.video_mask, k=1)
            torch.testing.assert_close(found.moments_s[row, place], moments[0, 0])
        torch.testing.assert_close(found.truth_s[row], item["moment_s"])
        torch.testing.assert_close(found.duration_s[row], item["duration_s"])


def test_collecting_leaves_teachers_in_the_mode_they_were_in_and_can_be_learnt_from(grounding):
    teachers = {"one": teacher(seed=0).train(), "two": teacher(seed=1).eval()}
    found = collect(teachers, grounding, progress=False)
    assert teachers["one"].training
    assert not teachers["two"].training
    weight = torch.ones(2, requires_grad=True)
    (found.start.sum(2) @ weight).sum().backward()


def test_a_teacher_that_says_not_a_number_is_named_with_the_query_and_its_video(grounding):
    broken = teacher(seed=1)
    broken.network.branch.match_head.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="teacher 'two' says not-a-number for query 'short-0' \\(video 'short'\\)"):
        collect({"one": teacher(seed=0), "two": broken}, grounding, progress=False)
    said = made()
    said.end[2, 1, 0] = torch.nan
    with pytest.raises(ValueError, match="teacher 'b' says not-a-number for the end of query 'q2'"):
        replace(said)


def test_nobody_to_ask_is_said_so(grounding):
    with pytest.raises(ValueError, match="at least one teacher is needed"):
        collect({}, grounding, progress=False)


def test_decoding_in_parts_finds_what_decoding_at_once_finds():
    said = made(count=11, length=8)
    label = Boundaries(start=said.start[:, 0], end=said.end[:, 0], mask=said.mask)
    at_once, _ = best_moments(label.start, label.end, duration_s=said.duration_s, mask=said.mask, k=3)
    assert torch.equal(decode(label, said.duration_s, k=3, rows=4), at_once)


def test_the_iou_is_that_of_every_moment_with_the_truth():
    said = made()
    for row in range(4):
        for place in range(3):
            assert said.iou[row, place] == temporal_iou(said.moments_s[row, place], said.truth_s[row])


def test_where_no_truth_is_known_everything_but_the_iou_works(tmp_path):
    said = made()
    said.truth_s[1] = torch.nan
    with pytest.raises(ValueError, match="1 of 4 queries is not known, the first is 'q1'"):
        _ = said.iou
    said.save(tmp_path / "said.safetensors")
    assert TeacherOutputs.load(tmp_path / "said.safetensors").fingerprint == said.fingerprint
    assert said.rows([0, 2]).iou.shape == (2, 3)


@pytest.mark.parametrize("index", [[2, 0], torch.tensor([2, 0])])
def test_rows_come_in_the_order_asked_for(index):
    said = made()
    some = said.rows(index)
    assert some.ids == ("q2", "q0")
    assert torch.equal(some.start, said.start[[2, 0]])
    assert torch.equal(some.truth_s, said.truth_s[[2, 0]])


def test_rows_can_be_chosen_by_true_and_false():
    said = made()
    assert said.rows(said.truth_s[:, 0] >= said.truth_s[2, 0]).ids[-1] in ("q2", "q3")
    assert said.rows(torch.tensor([False, True, False, True])).ids == ("q1", "q3")


def test_teachers_come_in_the_order_asked_for():
    said = made()
    some = said.teachers(["c", "a"])
    assert some.names == ("c", "a")
    assert torch.equal(some.end, said.end[:, [2, 0]])
    assert torch.equal(some.moments_s, said.moments_s[:, [2, 0]])
    with pytest.raises(ValueError, match="expected some of the teachers a, b, c, got a, x"):
        said.teachers(["a", "x"])
    with pytest.raises(ValueError, match="got none"):
        said.teachers([])


def test_joining_brings_queries_to_the_longest_grid():
    short, long = made(), made(name="r", length=9, seed=1)
    both = short.join([long])
    assert both.ids == short.ids + long.ids
    assert both.mask.shape == (8, 9)
    assert torch.equal(both.start[:4, :, :6], short.start)
    assert not both.start[:4, :, 6:].any()
    assert torch.equal(both.end[4:], long.end)
    assert both.rows(range(4, 8)).fingerprint == long.fingerprint
    with pytest.raises(ValueError, match="outputs of a, b, c cannot be joined with those of c, b, a"):
        short.join([long.teachers(["c", "b", "a"])])
    with pytest.raises(ValueError, match="query 'q0' is there twice"):
        short.join([short])


def test_what_is_saved_is_loaded(tmp_path):
    said = made()
    said.save(tmp_path / "said.safetensors")
    again = TeacherOutputs.load(tmp_path / "said.safetensors")
    assert (again.names, again.ids) == (said.names, said.ids)
    for field in ("start", "end", "mask", "moments_s", "duration_s", "truth_s"):
        assert torch.equal(getattr(again, field), getattr(said, field))


def test_a_file_of_something_else_is_refused(tmp_path):
    from vkdlab.weights import save_tensors

    save_tensors(tmp_path / "x.safetensors", {"weight": torch.ones(1)})
    with pytest.raises(ValueError, match="holds no teacher outputs: it has weight"):
        TeacherOutputs.load(tmp_path / "x.safetensors")


def test_the_fingerprint_tells_contents_apart_but_not_roundings():
    said = made()
    assert made().fingerprint == said.fingerprint
    others = [
        made(seed=1),
        made(name="r"),
        said.teachers(["a", "c", "b"]),
        said.rows([0, 1, 2]),
        replace(said, truth_s=said.truth_s + 0.01),
    ]
    assert len({said.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_names_have_to_fit_the_numbers():
    with pytest.raises(ValueError, match="one name for every teacher, got 2 for 3"):
        replace(made(), names=("a", "b"))
    with pytest.raises(ValueError, match="one name for every query, got 1 for 4"):
        replace(made(), ids=("q0",))
    with pytest.raises(ValueError, match="teacher 'a' is there twice"):
        replace(made(), names=("a", "b", "a"))
