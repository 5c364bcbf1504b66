"""Parameters, sweeps and their tables."""

import math

import numpy as np
import pytest

from vkdlab.sweeps import Parameter, ParameterError, product, read_parameters, settings, sweep_values, tables

from .notebook_writing import PARAMETERS

KNOWN = read_parameters(PARAMETERS, where="02.ipynb")


def test_parameters_are_the_literals_of_the_cell_with_their_comments():
    assert {name: parameter.default for name, parameter in KNOWN.items()} == {
        "profile": "demo", "seed": 0, "data": "tabletop", "rate": 0.5, "quick": False, "ious": [0.3, 0.5],
    }  # fmt: skip
    assert KNOWN["rate"].help == "learning rate"
    assert KNOWN["seed"].help == ""
    assert str(KNOWN["profile"]) == "profile (str, default 'demo')  # size: smoke, demo or full"


def test_a_parameters_cell_may_hold_negative_numbers_annotations_and_a_docstring():
    found = read_parameters('"""Knobs."""\nshift = -1\nlimit: int | None = None  # "#" in a text\n', where="x")
    assert found["shift"].default == -1
    assert found["limit"].default is None


def test_a_parameters_cell_with_code_is_refused_with_its_line():
    with pytest.raises(ParameterError, match=r"x\.ipynb: line 2 .*'seed = pick\(\)'.*name = literal"):
        read_parameters("data = 'a'\nseed = pick()", where="x.ipynb")
    with pytest.raises(ParameterError, match=r"line 1 .*'import os'"):
        read_parameters("import os", where="x.ipynb")
    with pytest.raises(ParameterError, match="is no Python"):
        read_parameters("%matplotlib inline", where="x.ipynb")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("seed=3", 3),
        ("rate=1", 1.0),
        ("rate=1e-3", 1e-3),
        ("data=arid6", "arid6"),
        ("data=", ""),
        ("data=a=b", "a=b"),
        ("quick=true", True),
        ("quick=0", False),
        ("ious=0.1,1", [0.1, 1.0]),
        ("ious=[0.1, 1]", [0.1, 1.0]),
        ("ious=", []),
    ],
)
def test_text_is_read_by_the_type_of_the_default(text, value):
    (found,) = settings([text], KNOWN, where="02").values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed=1.5", r"'seed' expects int \(default 0\), given '1.5'"),
        ("seed=0..4", r"'seed' expects int"),
        ("rate=fast", r"'rate' expects float"),
        ("rate=nan", r"'rate' expects float .*given 'nan'"),
        ("quick=maybe", r"'quick' expects bool, for instance true or false"),
        ("ious=0.3,high", r"'ious' expects"),
        ("sede=1", r"02 has no parameter 'sede'\. Did you mean 'seed'\? It has:\n  profile \(str.*\n  seed"),
        ("seed", r"expected name=value, given 'seed'"),
        ("=3", r"expected name=value"),
    ],
)
def test_a_wrong_text_says_what_was_expected(text, message):
    with pytest.raises(ParameterError, match=message):
        settings([text], KNOWN, where="02")


def test_a_text_is_one_of_the_choices_that_its_comment_lists():
    known = read_parameters('device = "auto"  # auto: the GPU where there is one | cpu | cuda, the first', where="02")
    assert known["device"].choices == ("auto", "cpu", "cuda")
    assert settings(["device=cpu"], known, where="02") == {"device": "cpu"}
    for given in (["device=gpu"], {"device": "gpu"}):
        with pytest.raises(ParameterError, match="'device' is one of auto, cpu, cuda, given 'gpu'"):
            settings(given, known, where="02")
    assert KNOWN["profile"].choices == ()


def test_values_from_python_are_held_to_the_same_types():
    given = {"seed": np.int64(3), "rate": 2, "ious": (0.5,)}
    assert settings(given, KNOWN, where="02") == {"seed": 3, "rate": 2.0, "ious": [0.5]}
    for wrong in (
        {"seed": "3"},
        {"seed": True},
        {"seed": 1.0},
        {"quick": 1},
        {"data": 5},
        {"ious": ["a"]},
        {"ious": 1},
    ):
        with pytest.raises(ParameterError, match="expects"):
            settings(wrong, KNOWN, where="02")


def test_a_default_of_none_takes_any_literal():
    limit = Parameter(name="limit", default=None)
    assert [limit.parsed("3"), limit.parsed("None"), limit.parsed("text")] == [3, None, "text"]
    assert limit.checked("anything") == "anything"


def test_a_name_given_twice_is_refused():
    with pytest.raises(ParameterError, match="'seed' is given twice: '1' and '2'"):
        settings(["seed=1", "seed=2"], KNOWN, where="02")


def test_a_notebook_without_parameters_says_so():
    with pytest.raises(ParameterError, match="02 has no cell tagged `parameters`, so 'seed' cannot be set"):
        settings(["seed=1"], {}, where="02")
    assert settings(None, {}, where="02") == {}


def test_a_range_includes_both_ends_and_lists_are_read_by_type():
    assert sweep_values(["seed=0..4"], KNOWN, where="02") == {"seed": [0, 1, 2, 3, 4]}
    assert sweep_values(["seed=-1..1,7", "data=tabletop,arid6"], KNOWN, where="02") == {
        "seed": [-1, 0, 1, 7], "data": ["tabletop", "arid6"],
    }  # fmt: skip
    assert sweep_values(["rate=1..2"], KNOWN, where="02") == {"rate": [1.0, 2.0]}
    assert sweep_values({"seed": range(2), "ious": [[0.3], [0.5]]}, KNOWN, where="02") == {
        "seed": [0, 1], "ious": [[0.3], [0.5]],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (["seed=4..0"], r"4\.\.0 runs backwards; write 0\.\.4"),
        (["seed=1,,2"], "has an empty value"),
        (["seed="], "has an empty value"),
        (["seed=0..2,1"], "gives 1 twice"),
        (["seed=a"], "expects int"),
        (["quick=0..1"], "expects bool"),
        (["sed=0..4"], "Did you mean 'seed'"),
        ({"seed": []}, "has no value"),
        ({"seed": 3}, "expects a list of values, given 3"),
        ({"data": "tabletop"}, "expects a list of values, given 'tabletop'"),
    ],
)
def test_a_wrong_sweep_is_refused(sweep, message):
    with pytest.raises(ParameterError, match=message):
        sweep_values(sweep, KNOWN, where="02")


def test_a_sweep_is_the_product_with_the_last_parameter_fastest():
    assert product({"a": [1, 2], "b": ["x", "y"]}) == [
        {"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"},
    ]  # fmt: skip
    assert product({}) == [{}]


T_2 = 4.302652729911275  # 97.5 % quantile of Student's t with two degrees of freedom


def test_the_table_gives_mean_spread_and_interval_over_seeds():
    values = [0.2, 0.5, 0.8]
    runs = [({"seed": seed, "data": "a"}, {"R1": value, "set": "a"}) for seed, value in enumerate(values)]
    table = tables(runs, swept=["seed", "data"]).means
    assert table.columns.tolist() == ["data", "metric", "mean", "sd", "low", "high", "n"]
    (row,) = table.to_dict("records")
    half = T_2 * np.std(values, ddof=1) / math.sqrt(3)
    assert row == {
        "data": "a", "metric": "R1", "mean": pytest.approx(0.5), "sd": pytest.approx(0.3),
        "low": pytest.approx(0.5 - half), "high": pytest.approx(0.5 + half), "n": 3,
    }  # fmt: skip


def test_values_of_a_parameter_are_compared_on_runs_that_agree_in_all_else():
    rng = np.random.default_rng(0)
    base = rng.normal(size=3) * 10
    gain = np.array([1.0, 2.0, 4.0])
    runs = [({"seed": s, "kau": False}, {"m": base[s]}) for s in range(3)]
    runs += [({"seed": s, "kau": True}, {"m": base[s] + gain[s]}) for s in (2, 0, 1)]
    runs.append(({"seed": 9, "kau": True}, {"m": 1e9}))
    (row,) = tables(runs, swept=["seed", "kau"]).differences.to_dict("records")
    half = T_2 * gain.std(ddof=1) / math.sqrt(3)
    assert (row["parameter"], row["a"], row["b"], row["metric"], row["n"]) == ("kau", False, True, "m", 3)
    assert row["difference"] == pytest.approx(gain.mean())
    assert (row["low"], row["high"]) == (pytest.approx(gain.mean() - half), pytest.approx(gain.mean() + half))


def test_one_run_has_a_mean_and_no_interval():
    (row,) = tables([({"data": "a"}, {"m": 2, "flag": True, "none": None})], swept=["data"]).means.to_dict("records")
    assert row["mean"] == 2
    assert math.isnan(row["sd"])
    assert math.isnan(row["low"])


def test_a_metric_that_some_runs_lack_is_averaged_over_those_that_have_it():
    runs = [({"seed": 0}, {"m": 1.0}), ({"seed": 1}, {"m": None}), ({"seed": 2}, {"m": 3.0, "late": 5.0})]
    rows = {row["metric"]: row for row in tables(runs, swept=["seed"]).means.to_dict("records")}
    assert (rows["m"]["mean"], rows["m"]["n"]) == (2.0, 2)
    assert rows["late"]["n"] == 1


def test_tables_of_no_run_are_empty_and_lists_can_be_swept():
    assert len(tables([], swept=["seed"]).means) == 0
    runs = [({"ious": [0.3]}, {"m": 1.0}), ({"ious": [0.5]}, {"m": 2.0})]
    found = tables(runs, swept=["ious"])
    assert found.means["ious"].tolist() == ["[0.3]", "[0.5]"]
    assert found.differences["difference"].tolist() == [1.0]
