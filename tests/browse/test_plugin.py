"""The operators that the App lists run as the App runs them."""

import asyncio
import json
import os
import re
from pathlib import Path

import pytest
import yaml

import vkdlab.browse
from vkdlab.browse.comparison import BEST
from vkdlab.browse.documents import labelled
from vkdlab.browse.selection import queries_in, selected
from vkdlab.browse.to_fiftyone import to_fiftyone
from vkdlab.predictions import Predictions

PLUGIN = "@vkdlab/browse"
FOLDER = Path(vkdlab.browse.__file__).parent / "plugins"
OPERATORS = ("tag_best_teacher", "compare_runs", "send_to_notebook", "correct_moment")
GIVEN = {
    "tag_best_teacher": {},
    "compare_runs": {"source": "label", "reference": "student", "threshold": 0.5},
    "send_to_notebook": {},
    "correct_moment": {},
}


@pytest.fixture(scope="module")
def renderings(predictions, tmp_path_factory) -> dict:
    """Further files of the same videos."""
    folder = tmp_path_factory.mktemp("flow")
    for video in predictions.dataset.videos.values():
        os.link(video.path, folder / f"{video.id}.mp4")
    return {"flow": {video: folder / f"{video}.mp4" for video in predictions.dataset.videos}}


@pytest.fixture(params=["videos alone", "videos with a rendering"])
def shown(request, predictions, renderings, name):
    """The answers in FiftyOne, with and without groups, for a test that changes them."""
    grouped = request.param != "videos alone"
    return to_fiftyone(predictions, name=name, progress=False, renderings=renderings if grouped else None)


@pytest.fixture(scope="module")
def kept(predictions, renderings, fo):
    """The answers in FiftyOne, in groups, for tests that only look."""
    dataset = to_fiftyone(predictions, name="test_plugin_kept", progress=False, renderings=renderings)
    yield dataset
    dataset.delete()


def _field(query, part) -> str:
    """The name under which the App sends a part of a query's moment."""
    return f"{part}_{query.encode().hex()}"


def _run(operator, dataset, params=None, **context) -> dict:
    """What the App gets back, as JSON that it can read."""
    import fiftyone.operators as foo

    context = {"dataset": dataset, "params": params or {}} | context
    result = foo.execute_operator(f"{PLUGIN}/{operator}", ctx=context).result
    return json.loads(json.dumps(result, allow_nan=False))


def _form(operator, dataset, params=None, **context) -> dict:
    """The form that the App shows, by the names of its fields."""
    from fiftyone.operators.executor import resolve_type
    from fiftyone.operators.registry import OperatorRegistry

    request = {"dataset_name": dataset.name, "params": params or {}, "target": "inputs"} | context
    form = asyncio.run(resolve_type(OperatorRegistry(), f"{PLUGIN}/{operator}", request))
    assert hasattr(form, "type"), form.to_json()
    return json.loads(json.dumps(form.to_json(), allow_nan=False))["type"]["properties"]


def test_ours_is_the_only_plugin_and_all_its_operators_are_there(fo):
    import fiftyone.plugins as fop
    from fiftyone.operators import list_operators
    from fiftyone.plugins.context import build_plugin_contexts

    assert [plugin.name for plugin in fop.list_plugins(enabled="all")] == [PLUGIN]
    assert fo.config.plugins_dir == str(FOLDER)
    ours = next(context for context in build_plugin_contexts() if context.name == PLUGIN)
    assert ours.errors == []
    listed = {each.name: each for each in list_operators(builtin=False)}
    assert tuple(listed) == OPERATORS
    assert all(each.config.label.startswith("vkdlab: ") and each.config.description for each in listed.values())
    assert not any(each.config.unlisted for each in listed.values())


def test_the_plugin_has_no_javascript_and_names_its_operators():
    assert sorted(path.name for path in (FOLDER / "vkdlab").iterdir() if path.name != "__pycache__") == [
        "__init__.py",
        "fiftyone.yml",
    ]
    assert yaml.safe_load((FOLDER / "vkdlab" / "fiftyone.yml").read_text())["operators"] == list(OPERATORS)


def test_the_best_teacher_is_tagged_from_the_app(shown, predictions):
    one = labelled(shown).first()
    result = _run("tag_best_teacher", shown, selected=[one.id])
    best = result["best"]
    assert list(best) == list(predictions.teachers)
    words = {0: "none", 1: "1 query"}
    told = ", ".join(f"{name} for {words.get(count, f'{count} queries')}" for name, count in best.items())
    assert result["message"] == f"The best teacher was {told}"
    assert "for none" in result["message"], "the case is no test of the word"
    assert sum(best.values()) == len(one.gt.detections)
    assert labelled(shown).count_label_tags() == {BEST: sum(best.values())}
    everything = _run("tag_best_teacher", shown)["best"]
    assert sum(everything.values()) == len(predictions.dataset.queries)


def test_runs_are_compared_from_the_app(shown):
    result = _run("compare_runs", shown, GIVEN["compare_runs"])
    assert result["better"] + result["worse"] + result["same"] == 20
    assert result["interval"][0] < result["mean_iou_difference"] < result["interval"][1]
    assert result["views"] == shown.list_saved_views()
    assert result["message"].startswith("label against student, right from IoU 0.5: better on ")
    assert result["message"].endswith(" | ".join(result["views"]))
    assert not result["chosen"]
    assert "chosen" not in result["message"]
    one = labelled(shown).first()
    chosen = [{"label_id": one.label.detections[0].id, "sample_id": "", "field": "label"}]
    every = _run("compare_runs", shown, GIVEN["compare_runs"], selected_labels=chosen)
    assert every == result, "what is selected counts when it is asked for alone"
    some = _run("compare_runs", shown, GIVEN["compare_runs"] | {"queries": "chosen"}, selected=[one.id])
    count = len(one.gt.detections)
    assert some["chosen"]
    assert f"These {count} queries were chosen from 20: what holds for them proves nothing about all" in some["message"]
    alone = _run("compare_runs", shown, GIVEN["compare_runs"] | {"queries": "chosen"}, selected_labels=chosen)
    assert alone["interval"] is None


def test_selected_clips_are_sent_to_the_notebook(shown, fo):
    clips = labelled(shown).filter_labels("student", fo.ViewField("iou") < 0.8).to_clips("gt")
    some = clips.limit(3)
    result = _run("send_to_notebook", None, view=clips, selected=some.values("id"))
    assert result["count"] == 3
    assert set(selected(shown).index) == set(some.values("gt.query_id"))
    assert result["message"] == (
        "Sent: 3 queries. Read them by browser.sent() in the notebook, or by vkdlab.browse.selected(dataset) in "
        f"Python. They are in {result['path']}"
    )
    _run("send_to_notebook", None, view=clips)
    assert set(selected(shown).index) == set(queries_in(clips))


def test_the_apps_sidebar_filters_count(shown, fo):
    below = {"student.detections.iou": {"range": [0, 0.5], "isMatching": False, "exclude": False, "none": False}}
    _run("send_to_notebook", shown, filters=below)
    expected = shown.filter_labels("student", fo.ViewField("iou") <= 0.5)
    assert set(selected(shown).index) == set(queries_in(expected))
    _run("tag_best_teacher", shown, selected=[labelled(shown).first().id])
    tagged = {"_label_tags": {"values": [BEST], "isMatching": False, "exclude": False}}
    _run("send_to_notebook", shown, filters=tagged)
    assert set(selected(shown).index) == set(queries_in(shown, selected=[labelled(shown).first().id]))


def test_a_moment_is_corrected_and_a_query_deleted_from_the_app(shown, predictions):
    one = labelled(shown).first()
    first, second = [query for query in predictions.dataset.queries if query.video == one.video_id][:2]
    form = _form("correct_moment", shown, {"query": first.id}, current_sample=one.id)
    names = {part: _field(first.id, part) for part in ("start_s", "end_s", "sentence")}
    as_shown = {name: form[name]["default"] for name in names.values()}
    assert as_shown[names["start_s"]] == round(first.start_s, 3)
    assert as_shown[names["sentence"]] == first.sentence
    params = {"query": first.id, "action": "correct", **as_shown, names["start_s"]: 0.25}
    result = _run("correct_moment", shown, params, current_sample=one.id)
    assert labelled(shown).first().gt.detections[0].end_s == first.end_s, "what was left as shown is exact"
    assert result["message"].startswith(f"Corrected: {first.sentence} (0.25 to {first.end_s:g} s of ")
    result = _run("correct_moment", shown, {"query": second.id, "action": "delete"}, selected=[one.id])
    assert result["message"].startswith(f"Deleted: {second.sentence} (")
    assert second.id not in queries_in(shown)


def test_what_makes_no_sense_is_told_in_the_form_and_not_executed(kept, predictions):
    from fiftyone.operators.executor import ExecutionError

    one = labelled(kept).first()
    query = one.gt.detections[0].query_id
    wrong = {
        "correct_moment": (
            ({"query": query, _field(query, "start_s"): -1.0}, "the moment starts at -1 s, before the video"),
            ({"query": query, _field(query, "start_s"): 99}, "s, not after its start at 99 s"),
            ({"query": query, _field(query, "sentence"): " "}, "a query's sentence is not empty"),
        ),
        "compare_runs": (
            ({"source": "label", "reference": "label", "threshold": 0.5}, "'label' compared with itself"),
            ({"source": "label", "reference": "student", "threshold": 0.0}, "lies above 0 and is at most 1, got 0"),
        ),
    }
    for operator, cases in wrong.items():
        for params, message in cases:
            form = _form(operator, kept, params, current_sample=one.id)
            problem = form["problem"]
            assert next(iter(form)) == "problem", "it is at the top"
            assert message in problem["view"]["label"]
            assert problem["invalid"]
            with pytest.raises(ExecutionError, match=re.escape(message)):
                _run(operator, kept, params, current_sample=one.id)
    right = _form("correct_moment", kept, {"query": query, _field(query, "start_s"): 0.125}, current_sample=one.id)
    assert "problem" not in right
    nothing = _form("correct_moment", kept, {"query": query}, current_sample=one.id)["problem"]
    assert (nothing["invalid"], nothing["view"]["name"]) == (True, "Notice")
    assert nothing["view"]["label"] == "Nothing is changed yet: give another start, end or sentence"
    with pytest.raises(ExecutionError, match="Nothing is changed yet: give another start"):
        _run("correct_moment", kept, {"query": query}, current_sample=one.id)


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_form_says_what_it_will_work_on(kept, operator):
    one = labelled(kept).first()
    form = _form(operator, kept, selected=[one.id])
    if operator == "compare_runs":
        assert form["what"]["view"]["label"] == "20 queries of the data set"
        form = _form(operator, kept, {"queries": "chosen"}, selected=[one.id])
        assert form["what"]["view"]["label"] == f"{len(one.gt.detections)} queries of what is selected"
        assert form["queries"]["default"] == "all"
    elif operator != "correct_moment":
        assert form["what"]["view"]["label"] == f"{len(one.gt.detections)} queries of what is selected"
        whole = _form(operator, kept)
        assert whole["what"]["view"]["label"] == "20 queries of the view"
    if operator == "compare_runs":
        assert form["source"]["type"]["values"] == form["reference"]["type"]["values"]
        assert (form["source"]["default"], form["reference"]["default"]) == ("teacher_spanning", "student")


def test_one_source_alone_is_not_compared(predictions, name, fo):
    label = {"label": predictions.moments_s["label"]}
    alone = to_fiftyone(
        Predictions(name="alone", dataset=predictions.dataset, moments_s=label), name=name, progress=False
    )
    assert "no two sources to compare" in _form("compare_runs", alone)["problem"]["view"]["label"]


def test_the_form_of_a_correction_offers_the_queries_of_the_open_video(kept):
    assert "Open or select the video or clip" in _form("correct_moment", kept)["problem"]["view"]["label"]
    one, two = labelled(kept).limit(2)
    form = _form("correct_moment", kept, selected=[two.id], current_sample=one.id)
    queries = [detection.query_id for detection in one.gt.detections]
    assert form["query"]["type"]["values"] == queries
    truth = one.gt.detections[0]
    assert form["query"]["view"]["choices"][0]["label"].startswith(f"{truth.label} ({truth.start_s:g} to ")
    assert form[_field(truth.query_id, "start_s")]["default"] == round(truth.start_s, 3)
    third = one.gt.detections[2]
    form = _form("correct_moment", kept, {"query": third.query_id}, current_sample=one.id)
    assert form[_field(third.query_id, "start_s")]["default"] == round(third.start_s, 3)
    assert form[_field(third.query_id, "sentence")]["default"] == third.label
    form = _form("correct_moment", kept, {"query": third.query_id, "action": "delete"}, current_sample=one.id)
    assert _field(third.query_id, "start_s") not in form
    assert "taken out" in form["sure"]["view"]["label"]
    label = {"label_id": third.id, "sample_id": one.id, "field": "gt"}
    assert _form("correct_moment", kept, selected_labels=[label])["query"]["type"]["values"] == [third.query_id]


def test_the_form_of_a_correction_offers_a_moment_that_was_drawn_just_now(shown, fo):
    one = labelled(shown).first()
    drawn = fo.TemporalDetection(label="drawn", support=[1, 4])
    one.gt.detections.append(drawn)
    one.save()
    label = {"label_id": drawn.id, "sample_id": one.id, "field": "gt"}
    form = _form("correct_moment", shown, selected_labels=[label])
    assert form["query"]["view"]["choices"][0]["label"].startswith("drawn (0 to 0.32 s of ")
    query = form["query"]["default"]
    params = {"query": query, "action": "correct", _field(query, "end_s"): 0.5}
    assert _run("correct_moment", shown, params, selected_labels=[label])["message"].startswith(
        "Corrected: drawn (0 to 0.5 s of "
    )


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_data_set_of_somebody_else_and_an_empty_view_are_told_in_the_form(kept, operator, name, fo):
    other = fo.Dataset(name)
    other.add_sample(fo.Sample(filepath="/nowhere.mp4"))
    form = _form(operator, other, selected=other.values("id"))
    assert "holds no answers of vkdlab" in form["problem"]["view"]["label"]
    empty = kept.filter_labels("gt", fo.ViewField("label") == "nobody says this")
    nothing = {"view": empty._serialize(), "selected": labelled(kept).limit(1).values("id")}
    form = _form(operator, kept, {"queries": "chosen"}, **nothing)
    if operator == "compare_runs":
        assert form["queries"]["type"]["values"] == ["all", "chosen"], "the way to all of them stays open"
        assert "problem" not in _form(operator, kept, **nothing)
    assert form["problem"]["view"]["label"] == "There is no moment in what is selected or left by the filters"


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_message_is_what_the_app_shows_afterwards(kept, operator):
    from fiftyone.operators.executor import ExecutionContext
    from fiftyone.operators.registry import OperatorRegistry

    of_operator = OperatorRegistry().get_operator(f"{PLUGIN}/{operator}")
    output = of_operator.resolve_output(ExecutionContext({"dataset_name": kept.name})).to_json()
    assert list(output["type"]["properties"]) == ["message"]
