"""Browse answers moment by moment: in FiftyOne where it is installed, by a player and figures where it is not (ours).

    browser = Browser.open(predictions)        # everything below, in one call
    browser.show()

    fo = fiftyone()                            # FiftyOne itself, with a database of its own, on this machine alone
    dataset = to_fiftyone(predictions)         # or a run, or a data set: videos with a row of moments per source
    save_views(dataset)                        # one for every question: "student wrong where a teacher is right", ...
    evaluate(dataset)                          # our metrics written in, FiftyOne's mAP beside them
    app = launch(dataset)                      # the App
    rows = selected(dataset)                   # what was sent back from the App
    corrected = from_fiftyone(dataset)         # with the moments that a person moved: data that trains

Answers come as `vkdlab.predictions.Predictions`, which every method can write; nothing here knows a method. What is
known of a query is in `facts`, what is asked of facts in `questions`; both need no FiftyOne. The notebook is
`08_browse_segments`.
"""

from vkdlab.browse.app import App, launch
from vkdlab.browse.browser import Browser, own_folder
from vkdlab.browse.comparison import compare_runs, tag_best_teacher
from vkdlab.browse.correction import correct_moment, delete_query
from vkdlab.browse.database import BrowseError, BrowseUnavailable, Database, connect, fiftyone
from vkdlab.browse.evaluation import difference, difference_figure, evaluate, measure
from vkdlab.browse.facts import facts
from vkdlab.browse.from_fiftyone import from_fiftyone, predictions_of, rescore
from vkdlab.browse.questions import QUESTIONS, Condition, Question, answerable
from vkdlab.browse.renderings import render
from vkdlab.browse.selection import selected
from vkdlab.browse.to_fiftyone import add_source, to_fiftyone
from vkdlab.browse.views import clips, save_views

__all__ = [
    "QUESTIONS",
    "App",
    "BrowseError",
    "BrowseUnavailable",
    "Browser",
    "Condition",
    "Database",
    "Question",
    "add_source",
    "answerable",
    "clips",
    "compare_runs",
    "connect",
    "correct_moment",
    "delete_query",
    "difference",
    "difference_figure",
    "evaluate",
    "facts",
    "fiftyone",
    "from_fiftyone",
    "launch",
    "measure",
    "own_folder",
    "predictions_of",
    "render",
    "rescore",
    "save_views",
    "selected",
    "tag_best_teacher",
    "to_fiftyone",
]
