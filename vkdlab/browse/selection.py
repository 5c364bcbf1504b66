"""Which queries a person looks at in the App, and the way of these from the App to a notebook (ours).

In the App a person looks at a view (of videos, of groups of videos or of clips), filters it in the sidebar, and selects
samples or labels. Whatever of this was done, it comes down to some queries of the data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vkdlab.browse import database
from vkdlab.browse.documents import GROUP, GT, about, labelled, query_ids
from vkdlab.browse.facts import facts
from vkdlab.browse.from_fiftyone import predictions_of
from vkdlab.files import atomic_path

if TYPE_CHECKING:
    import fiftyone
    import pandas as pd

FILE = "selected.csv"
DATA_SET = "data_set"
TEXT = ("query", DATA_SET, "video", "sentence", "kind", "best_teacher", "trusted_teacher")


@database.explained()
def queries_in(
    view: fiftyone.core.collections.SampleCollection,
    *,
    selected: Iterable[str] = (),
    selected_labels: Iterable[Mapping[str, str]] = (),
) -> tuple[str, ...]:
    """The queries that a person looks at.

    A query is in a view of videos when its video is and no filter left it out: filtered by the student's IoU, a view
    has the queries of the student's moments that are left, though the true ones are all there. In a view of chosen
    labels (by hand or by their tag) it is in when one of its moments is. A clip has one query.

    Args:
        view: a data set that `to_fiftyone` made, or any view of it.
        selected: ids of the view's samples (or clips) that alone count.
        selected_labels: labels that count, as the App tells them; those of selected samples count too.

    Returns:
        Ids in the data set's order.

    Raises:
        ValueError: the data set was not made by `to_fiftyone`.
    """
    dataset = view._root_dataset
    whole = {field: _ids(labelled(dataset), field) for field in (GT, *about(dataset)["sources"])}
    selected, wanted = list(selected), {label["label_id"] for label in selected_labels}
    chosen = {query for known in whole.values() for label, query in known.items() if label in wanted}
    if selected or not wanted:
        chosen |= _in_view(view, selected, whole)
    # An answer to a query that was deleted is no query.
    return tuple(query for query in whole[GT].values() if query in chosen)


def write_selection(
    view: fiftyone.core.collections.SampleCollection,
    *,
    selected: Iterable[str] = (),
    selected_labels: Iterable[Mapping[str, str]] = (),
) -> Path:
    """Writes one row per query that a person looks at, with all its facts as they now stand, where `selected` reads it.

    Args:
        view: as in `queries_in`, and so the others.
        selected: ids of samples or clips.
        selected_labels: labels.

    Returns:
        The file, `selected.csv` in the database's folder; an earlier one is replaced.

    Raises:
        ValueError: there is no query in what was chosen.
    """
    queries = at_least_one(queries_in(view, selected=selected, selected_labels=selected_labels))
    dataset = view._root_dataset
    rows = facts_of(dataset).loc[list(queries)]
    rows.insert(0, DATA_SET, dataset.name)
    with atomic_path(_file()) as path:
        rows.to_csv(path)
    return _file()


def selected(dataset: fiftyone.Dataset | None = None) -> pd.DataFrame:
    """What was last sent from the App by "vkdlab: send to the notebook".

    Args:
        dataset: the data set that it has to come from; by default any.

    Returns:
        A row per query, under the query's id, with the columns of `vkdlab.browse.facts`, and first `data_set`, the
        data set's name in FiftyOne.

    Raises:
        FileNotFoundError: nothing was sent yet.
        ValueError: it was sent from another data set.
    """
    import pandas as pd

    if not _file().is_file():
        raise FileNotFoundError(
            f"nothing was sent from the App yet (there is no {_file()}): select samples there, press the ` key, choose "
            '"vkdlab: send to the notebook", then run this cell again'
        )
    # As text first: an id such as 007 is no number, and a sentence may read "null".
    rows = pd.read_csv(_file(), dtype=str, keep_default_na=False).set_index("query")
    for name in rows.columns.difference(TEXT):
        rows[name] = [float(value) if value else float("nan") for value in rows[name]]
    if dataset is not None and (others := sorted(set(rows[DATA_SET]) - {dataset.name})):
        raise ValueError(
            f"the last samples were sent from the data set {others[0]!r}, not from {dataset.name!r}: send some of it"
        )
    return rows


def at_least_one(queries: tuple[str, ...]) -> tuple[str, ...]:
    """The queries themselves.

    Raises:
        ValueError: there is none.
    """
    if not queries:
        raise ValueError("what is chosen holds no moment: select some videos, clips or labels, or clear the filters")
    return queries


def facts_of(dataset: fiftyone.Dataset) -> pd.DataFrame:
    """`vkdlab.browse.facts` of all queries, from the moments as they now stand in the data set."""
    return facts(predictions_of(dataset))


def _in_view(view, selected: Sequence[str], whole: Mapping[str, Mapping[str, str]]) -> set[str]:
    """Queries of a view, or of its selected samples."""
    fo = database.fiftyone()
    dataset, video_id = view._root_dataset, fo.ViewField("video_id")
    own = labelled(dataset)
    every = dataset.select_group_slices() if dataset.media_type == GROUP else dataset
    if view._is_clips:
        view = view.select(selected) if selected else view
        if view._classification_field in whole:  # a clip of a moment has its id
            return {whole[view._classification_field].get(clip) for clip in view.values("id")}
        kept = own.select(view.values("sample_id"))
    else:
        kept = labelled(view)
        ids = kept.values("id")
        if dataset.media_type == GROUP and not own.select(ids):
            # A view of a rendering alone has no labels: the videos that it renders have.
            kept = own.match(video_id.is_in(every.select(ids).distinct("video_id")))
        if selected:
            # What is selected may be a rendering, too.
            kept = kept.select(own.match(video_id.is_in(every.select(selected).distinct("video_id"))).values("id"))
    left = {
        field: {known[label] for label in kept.values(f"{field}.detections.id", unwind=True)}
        for field, known in whole.items()
        if field in kept.get_field_schema()
    }
    known, stages = set().union(*left.values()), kept.view()._all_stages
    if any(isinstance(stage, fo.SelectLabels) for stage in stages):
        return known
    asked = {stage.field for stage in stages if isinstance(stage, fo.FilterLabels) and stage.only_matches}
    return known.intersection(
        *(queries for field, queries in left.items()
          if field in asked or known & set(whole[field].values()) - queries)
    )  # fmt: skip


def _ids(samples, field: str) -> dict[str, str]:
    """Label id to query id of all of a field's moments."""
    rows = samples.values(["video_id", f"{field}.detections.id", f"{field}.detections.query_id"])
    found = {}
    for video, labels, queries in zip(*rows, strict=True):
        named = list(zip(labels or [], queries or [], strict=True))
        found |= zip(labels or [], query_ids(video, named), strict=True)
    return found


def _file() -> Path:
    return database.connect().folder / FILE
