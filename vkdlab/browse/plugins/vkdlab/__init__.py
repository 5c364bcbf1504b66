"""Operators of vkdlab in the App (press ` there): forms around `vkdlab.browse`, which does the work (ours).

FiftyOne loads this file; nobody imports it.
"""

import fiftyone.operators as foo
from fiftyone.operators import types

from vkdlab.browse.comparison import check_comparison, compare_runs, tag_best_teacher
from vkdlab.browse.correction import correct_moment, delete_query, moments_of
from vkdlab.browse.documents import about
from vkdlab.browse.selection import queries_in, write_selection

KEEP, DELETE = "correct", "delete"


class TagBestTeacher(foo.Operator):
    """Tags the best teacher's answer to every query that is looked at."""

    @property
    def config(self):
        return foo.OperatorConfig(
            name="tag_best_teacher",
            label="vkdlab: tag the best teacher",
            description="Tags, for every query, the answer of the teacher with the greatest IoU as best_teacher",
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        _say_what(ctx, inputs)
        return types.Property(inputs, view=types.View(label=self.config.label, description=self.config.description))

    def execute(self, ctx):
        best = tag_best_teacher(**_chosen(ctx))
        ctx.ops.reload_dataset()
        found = ", ".join(f"{teacher} of {count}" for teacher, count in best.items())
        return {"message": f"Best teacher: {found} queries", "best": best}

    def resolve_output(self, ctx):
        return _message(self.config.label)


class CompareRuns(foo.Operator):
    """Tags where one source is better or worse than another, and says by how much."""

    @property
    def config(self):
        return foo.OperatorConfig(
            name="compare_runs",
            label="vkdlab: compare two runs",
            description="Tags one source's answers as better, worse or same as another's, and saves views of them",
            dynamic=True,
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        form = types.Property(inputs, view=types.View(label=self.config.label, description=self.config.description))
        if not _say_what(ctx, inputs):
            return form
        sources = about(ctx.dataset)["sources"]
        if len(sources) < 2:
            _refuse(inputs, "There are no two sources to compare: add another run by vkdlab.browse.add_source")
            return form
        for name, label, default in (
            ("source", "Whose answers are judged", sources[1]),
            ("reference", "Whose answers they are compared with", sources[0]),
        ):
            inputs.enum(name, sources, label=label, default=default, required=True, view=types.DropdownView())
        inputs.float("threshold", label="IoU from which an answer is right", default=0.5, required=True)
        given = {name: ctx.params.get(name) for name in ("source", "reference", "threshold")}
        if None not in given.values():
            _check(inputs, lambda: check_comparison(ctx.dataset, **given))
        return form

    def execute(self, ctx):
        found = compare_runs(
            **_chosen(ctx),
            source=ctx.params["source"],
            reference=ctx.params["reference"],
            threshold=ctx.params["threshold"],
        )
        ctx.ops.reload_dataset()
        # An interval of one query has no ends, and JSON no not-a-number.
        known = found.difference.count > 1
        return {
            "message": f"{found}. Saved views: {' | '.join(found.views)}",
            "better": found.better,
            "worse": found.worse,
            "same": found.same,
            "mean_iou_difference": found.difference.mean,
            "interval": [found.difference.low, found.difference.high] if known else None,
            "views": list(found.views),
        }

    def resolve_output(self, ctx):
        return _message(self.config.label)


class SendToNotebook(foo.Operator):
    """Writes what is looked at as a table that a notebook reads."""

    @property
    def config(self):
        return foo.OperatorConfig(
            name="send_to_notebook",
            label="vkdlab: send to the notebook",
            description="Writes the selected samples or labels, else the view, as a table that the notebook reads",
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        _say_what(ctx, inputs)
        return types.Property(inputs, view=types.View(label=self.config.label, description=self.config.description))

    def execute(self, ctx):
        chosen = _chosen(ctx)
        path = write_selection(**chosen)
        count = len(queries_in(**chosen))
        return {
            "message": f"{count} queries are in {path}. In the notebook: vkdlab.browse.selected()",
            "count": count,
            "path": str(path),
        }

    def resolve_output(self, ctx):
        return _message(self.config.label)


class CorrectMoment(foo.Operator):
    """Moves, rewords or deletes a query of the selected sample."""

    @property
    def config(self):
        return foo.OperatorConfig(
            name="correct_moment",
            label="vkdlab: correct a moment",
            description="Moves the true moment of a query, mends its sentence or deletes it",
            dynamic=True,
        )

    def resolve_placement(self, ctx):
        return types.Placement(
            types.Places.SAMPLES_VIEWER_ACTIONS, types.Button(label="Correct a moment", icon="edit", prompt=True)
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        form = types.Property(inputs, view=types.View(label=self.config.label, description=self.config.description))
        chosen = _one_sample(ctx)
        if not (chosen["selected"] or chosen["selected_labels"]):
            _refuse(inputs, "Open or select the video or clip whose moment is wrong")
            return form
        queries = _queries(ctx, inputs, chosen)
        if not queries:
            return form
        moments = moments_of(ctx.dataset, queries)
        choices = types.DropdownView()
        for query, moment in moments.items():
            choices.add_choice(query, label=str(moment))
        first = next(iter(moments))
        inputs.enum("query", list(moments), label="Query", default=first, required=True, view=choices)
        now = moments.get(ctx.params.get("query") or first)
        if now is None:
            return form
        inputs.enum("action", [KEEP, DELETE], default=KEEP, required=True, label="What to do", view=types.RadioGroup())
        if ctx.params.get("action") == DELETE:
            inputs.view("sure", types.Warning(label="The true moment and all answers to the query are taken out"))
            return form
        # Empty fields keep what is there: defaults would stay those of the query that was chosen first.
        keep = "leave it empty to keep"
        inputs.float("start_s", label="Start, seconds", description=f"{keep} {now.start_s:g} s")
        inputs.float("end_s", label="End, seconds", description=f"{keep} {now.end_s:g} s of {now.duration_s:g} s")
        inputs.str("sentence", label="Sentence", description=f"{keep} {now.sentence!r}")
        _check(inputs, lambda: now.corrected(**_parts(ctx)))
        return form

    def execute(self, ctx):
        query = ctx.params["query"]
        if ctx.params.get("action") == DELETE:
            message = f"Deleted: {delete_query(ctx.dataset, query)}"
        else:
            message = f"Corrected: {correct_moment(ctx.dataset, query, **_parts(ctx))}"
        ctx.ops.reload_dataset()
        return {"message": message}

    def resolve_output(self, ctx):
        return _message(self.config.label)


def register(plugin):
    """Called by FiftyOne with the plugin that the operators are added to."""
    for operator in (TagBestTeacher, CompareRuns, SendToNotebook, CorrectMoment):
        plugin.register(operator)


def _chosen(ctx) -> dict:
    return {"view": ctx.view, "selected": ctx.selected, "selected_labels": ctx.selected_labels or []}


def _one_sample(ctx) -> dict:
    """The sample that is open, else those that are selected."""
    chosen = _chosen(ctx)
    return chosen | {"selected": [ctx.current_sample]} if ctx.current_sample else chosen


def _say_what(ctx, inputs) -> bool:
    """Writes into a form how many queries the operator would see; False where it could not run."""
    queries = _queries(ctx, inputs, _chosen(ctx))
    if queries:
        what = "what is selected" if ctx.selected or ctx.selected_labels else "the view"
        inputs.view("what", types.Notice(label=f"{len(queries)} queries of {what}"))
    return bool(queries)


def _queries(ctx, inputs, chosen: dict) -> tuple[str, ...]:
    queries = _check(inputs, lambda: queries_in(**chosen))
    if queries == ():
        _refuse(inputs, "There is no moment in what is selected or left by the filters")
    return queries or ()


def _parts(ctx) -> dict:
    """What of a moment was given; an empty field is none."""
    return {
        "start_s": ctx.params.get("start_s"),
        "end_s": ctx.params.get("end_s"),
        "sentence": ctx.params.get("sentence") or None,
    }


def _check(inputs, work):
    """What `work` returns; where it raises, the form says why and cannot be executed."""
    try:
        return work()
    except ValueError as error:
        return _refuse(inputs, str(error))


def _refuse(inputs, why: str) -> None:
    # The App hides the message of an operator that fails, but shows this one.
    inputs.view("problem", types.Warning(label=why), invalid=True, error_message=why)


def _message(label: str):
    outputs = types.Object()
    outputs.str("message", label="Result")
    return types.Property(outputs, view=types.View(label=label))
