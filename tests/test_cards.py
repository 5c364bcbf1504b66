import math

import pytest

from vkdlab.cards import model_card

GIVEN = {
    "what": "Names the colour of a ball.",
    "use": "```\nvkdlab balls\n```",
    "data": {"data set": "balls | cubes", "split": "train\nof two"},
    "features": {"hue": "3 numbers"},
    "training": {"epochs": 3},
    "metrics": {"accuracy": 0.8125, "recall": math.nan},
    "measured_on": "the test split of balls",
    "seeds": [4],
    "cost": {"parameters": "12"},
    "licences": {"balls": "CC0"},
    "limits": ["It knows no cubes."],
}


def card(**changes):
    return model_card("Ball namer", **GIVEN | changes)


def test_a_card_has_every_section_and_every_fact():
    lines = card().splitlines()
    assert lines[0] == "# Ball namer"
    titles = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert titles == ["Use", "Data", "Features", "Training", "Metrics", "Cost", "Licences", "Limits"]
    for expected in ("| hue | 3 numbers |", "| epochs | 3 |", "| parameters | 12 |", "| balls | CC0 |"):
        assert expected in lines
    assert "- It knows no cubes." in lines


def test_metrics_are_in_per_cent_and_what_is_no_number_is_a_dash():
    assert "| accuracy | 81.2 |" in card()
    assert "| recall | – |" in card()


def test_one_seed_is_said_to_be_one():
    assert "On the test split of balls, in per cent. One seed (4): with another one these numbers differ" in card()
    assert "Mean over 3 seeds (0, 1, 2)." in card(seeds=[0, 1, 2])
    assert "One seed" not in card(seeds=[0, 1, 2])


def test_a_bar_or_a_line_break_in_a_fact_does_not_break_its_table():
    assert "| data set | balls \\| cubes |" in card()
    assert "| split | train of two |" in card()


def test_what_sees_pixels_has_no_features():
    assert "## Features\n\nIt sees pixels.\n" in card(features={})


@pytest.mark.parametrize("missing", [{"seeds": []}, {"metrics": {}}])
def test_a_card_without_seed_or_metric_is_refused(missing):
    with pytest.raises(ValueError, match="a model card needs a seed and a metric, given"):
        card(**missing)
