"""Operators of vkdlab in the App (press ` there): forms around `vkdlab.browse`, which does the work (ours).

FiftyOne loads this file; nobody imports it.
"""

import fiftyone.operators as foo
from fiftyone.operators import types

from vkdlab.browse.comparison import check_comparison, compare_runs, tag_best_teacher
from vkdlab.browse.correction import Moment, correct_moment, delete_query, moments_of
from vkdlab.browse.database import BrowseError, explained
from vkdlab.browse.documents import about
from vkdlab.browse.selection import queries_in, write_selection

KEEP, DELETE = "correct", "delete"
ALL, CHOSEN = "all", "chosen"
DIGITS = 3
"""Of the seconds that a form shows; what a person leaves as it is shown stays as it is, to the last digit."""


class _Operator(foo.Operator):
    """A form, which says why it cannot be executed, and what is done with it."""

    dynamic = False

    @property
    def config(self):
        name, label, description = self.called
        return foo.OperatorConfig(name=name, label=f"vkdlab: {label}", description=description, dynamic=self.dynamic)

    def resolve_input(self, ctx):
        inputs = types.Object()
        try:
            with explained():
                self.fill(ctx, inputs)
        except (ValueError, BrowseError) as error:
            _refuse(inputs, str(error))
        return types.Property(inputs, view=types.View(label=self.config.label, description=self.config.description))

    @explained()
    def execute(self, ctx):
        return self.work(ctx)

    def resolve_output(self, ctx):
        outputs = types.Object()
        outputs.str("message", label="Result")
        return types.Property(outputs, view=types.View(label=self.config.label))


class TagBestTeacher(_Operator):
    """Tags the best teacher's answer to every query that is looked at."""

    called = (
        "tag_best_teacher",
        "tag the best teacher",
        "Tags, for every query, the answer of the teacher with the greatest IoU as best_teacher",
    )

    def fill(self, ctx, inputs):
        _say_what(ctx, inputs)

    def work(self, ctx):
        best = tag_best_teacher(**_chosen(ctx))
        ctx.ops.reload_dataset()
        found = ", ".join(f"{teacher} for {_queries(count) if count else 'none'}" for teacher, count in best.items())
        return {"message": f"The best teacher was {found}", "best": best}


class CompareRuns(_Operator):
    """Tags where one source is better or worse than another, and says by how much."""

    dynamic = True
    called = (
        "compare_runs",
        "compare two sources in this data set",
        "Tags the answers of one source in this data set as better, worse or same as another's, and saves views of "
        "them. Another run's answers are brought in, in Python, by "
        'vkdlab.browse.add_source(dataset, predictions, as_="student_b")',
    )

    def fill(self, ctx, inputs):
        sources = about(ctx.dataset)["sources"]
        if len(sources) < 2:
            raise ValueError(
                "There are no two sources to compare: bring in another run's answers, in Python, by "
                'vkdlab.browse.add_source(dataset, predictions, as_="student_b")'
            )
        given = {name: ctx.params.get(name) for name in ("source", "reference", "threshold")}
        if None not in given.values():
            _check(inputs, lambda: check_comparison(ctx.dataset, **given))
        if ctx.params.get("queries", ALL) == ALL:
            _say(inputs, f"{_queries(len(queries_in(ctx.dataset)))} of the data set")
        else:
            _check(inputs, lambda: _say_what(ctx, inputs))
        scope = types.RadioGroup()
        scope.add_choice(ALL, label="all of the data set")
        scope.add_choice(CHOSEN, label="of this view or selection alone, which proves nothing about all")
        inputs.enum("queries", [ALL, CHOSEN], label="Queries", default=ALL, view=scope)
        for name, label, default in (
            ("source", "Whose answers are judged", sources[1]),
            ("reference", "Whose answers they are compared with", sources[0]),
        ):
            inputs.enum(name, sources, label=label, default=default, required=True, view=types.DropdownView())
        inputs.float("threshold", label="IoU from which an answer is right", default=0.5, required=True)

    def work(self, ctx):
        every = ctx.params.get("queries", ALL) == ALL
        found = compare_runs(
            **({"view": ctx.dataset} if every else _chosen(ctx)),
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
            "chosen": found.chosen,
            "views": list(found.views),
        }


class SendToNotebook(_Operator):
    """Writes what is looked at as a table that a notebook reads."""

    called = (
        "send_to_notebook",
        "send to the notebook",
        "Writes the selected samples or labels, else the view, as a table that the notebook reads",
    )

    def fill(self, ctx, inputs):
        _say_what(ctx, inputs)

    def work(self, ctx):
        chosen = _chosen(ctx)
        path = write_selection(**chosen)
        count = len(queries_in(**chosen))
        return {
            "message": (
                f"Sent: {_queries(count)}. Read them by browser.sent() in the notebook, or by "
                f"vkdlab.browse.selected(dataset) in Python. They are in {path}"
            ),
            "count": count,
            "path": str(path),
        }


class CorrectMoment(_Operator):
    """Moves, rewords or deletes a query of the selected sample."""

    dynamic = True
    called = (
        "correct_moment",
        "correct a moment",
        "Moves the true moment of a query, mends its sentence or deletes it",
    )

    def resolve_placement(self, ctx):
        return types.Placement(
            types.Places.SAMPLES_VIEWER_ACTIONS, types.Button(label=self.config.label, icon="edit", prompt=True)
        )

    def fill(self, ctx, inputs):
        chosen = _one_sample(ctx)
        if not (chosen["selected"] or chosen["selected_labels"]):
            raise ValueError("Open or select the video or clip whose moment is wrong")
        moments = moments_of(ctx.dataset, _some(chosen))
        first = next(iter(moments))
        now = moments.get(ctx.params.get("query") or first)
        deletes = ctx.params.get("action") == DELETE
        if deletes:
            inputs.view("sure", types.Warning(label="The true moment and all answers to the query are taken out"))
        elif now is not None and _given(ctx, now):
            _check(inputs, lambda: now.corrected(**_given(ctx, now)))
        elif now is not None:
            _refuse(inputs, "Nothing is changed yet: give another start, end or sentence", view=types.Notice)
        choices = types.DropdownView()
        for query, moment in moments.items():
            choices.add_choice(query, label=str(moment))
        inputs.enum("query", list(moments), label="Query", default=first, required=True, view=choices)
        if now is None:
            return
        inputs.enum("action", [KEEP, DELETE], default=KEEP, required=True, label="What to do", view=types.RadioGroup())
        if not deletes:
            shown = _shown(now)
            for part, label, make in (
                ("start_s", "Start, seconds", inputs.float),
                ("end_s", f"End, seconds, of {now.duration_s:g} s", inputs.float),
                ("sentence", "Sentence", inputs.str),
            ):
                make(field_of(now.query, part), label=label, default=shown[part])

    def work(self, ctx):
        query = ctx.params["query"]
        if ctx.params.get("action") == DELETE:
            message = f"Deleted: {delete_query(ctx.dataset, query)}"
        else:
            now = moments_of(ctx.dataset, [query]).get(query)
            # Of a query that is gone, correct_moment says so.
            given = _given(ctx, now) if now else {}
            message = f"Corrected: {correct_moment(ctx.dataset, query, **given)}"
        ctx.ops.reload_dataset()
        return {"message": message}


def register(plugin):
    """Called by FiftyOne with the plugin that the operators are added to."""
    for operator in (TagBestTeacher, CompareRuns, SendToNotebook, CorrectMoment):
        plugin.register(operator)


def field_of(query: str, part: str) -> str:
    """The name of a form's field of a query: the App keeps what a field of one name showed first."""
    return f"{part}_{query.encode().hex()}"


def _shown(now: Moment) -> dict:
    """What a form shows of a moment; nothing of seconds that are none."""
    seconds = {part: round(getattr(now, part), DIGITS) for part in ("start_s", "end_s")}
    return {part: value if value == value else None for part, value in seconds.items()} | {"sentence": now.sentence}


def _given(ctx, now: Moment) -> dict:
    """The parts of a moment for which a form was given something else than it showed."""
    shown = _shown(now)
    given = {part: ctx.params.get(field_of(now.query, part)) for part in shown}
    return {part: value for part, value in given.items() if value is not None and value != shown[part]}


def _chosen(ctx) -> dict:
    return {"view": ctx.view, "selected": ctx.selected, "selected_labels": ctx.selected_labels or []}


def _one_sample(ctx) -> dict:
    """The sample that is open, else those that are selected."""
    chosen = _chosen(ctx)
    return chosen | {"selected": [ctx.current_sample]} if ctx.current_sample else chosen


def _say_what(ctx, inputs) -> None:
    """Writes into a form how many queries the operator would see."""
    what = "what is selected" if ctx.selected or ctx.selected_labels else "the view"
    _say(inputs, f"{_queries(len(_some(_chosen(ctx))))} of {what}")


def _some(chosen: dict) -> tuple[str, ...]:
    if queries := queries_in(**chosen):
        return queries
    raise ValueError("There is no moment in what is selected or left by the filters")


def _queries(count: int) -> str:
    return f"{count} {'query' if count == 1 else 'queries'}"


def _say(inputs, what: str) -> None:
    inputs.view("what", types.Notice(label=what))


def _check(inputs, work) -> None:
    """Where `work` raises, the form says why and cannot be executed."""
    try:
        work()
    except ValueError as error:
        _refuse(inputs, str(error))


def _refuse(inputs, why: str, *, view=types.Warning) -> None:
    # The App hides the message of an operator that fails, but shows this one.
    inputs.view("problem", view(label=why), invalid=True, error_message=why)
