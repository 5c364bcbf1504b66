"""Notebook parameters, sweeps over them, and the tables that a sweep gives (ours).

A notebook's parameters are the literals of its cell tagged `parameters`; a sweep is the product of the values given for
some of them. Values given as text (`seed=0..4`, `data=tabletop,arid6`) are read by the type of the parameter's default.
"""

from __future__ import annotations

import ast
import difflib
import io
import itertools
import math
import re
import statistics
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

REPLICATE = "seed"
"""The parameter whose values are repetitions: tables average over it instead of listing it."""


class ParameterError(ValueError):
    """A notebook parameter that does not exist, has the wrong type, or is given twice."""


@dataclass(frozen=True)
class Parameter:
    """One name of a notebook's `parameters` cell."""

    name: str
    """The variable's name."""
    default: Any
    """The literal it is set to; its type is the parameter's type. None takes any literal."""
    help: str = ""
    """The comment behind it."""

    @property
    def type(self) -> str:
        """Name of the type that values must have."""
        return "any literal" if self.default is None else type(self.default).__name__

    @property
    def choices(self) -> tuple[str, ...]:
        """What a text may be when its comment lists choices, `# auto | cpu | cuda: the GPU`: the first word of each."""
        if not isinstance(self.default, str) or " | " not in self.help:
            return ()
        return tuple(part.split()[0].rstrip(":,") for part in self.help.split(" | "))

    def __str__(self) -> str:
        return f"{self.name} ({self.type}, default {self.default!r})" + (f"  # {self.help}" if self.help else "")

    def checked(self, value: Any) -> Any:
        """`value` in the type of the default; a whole number passes as a float.

        Raises:
            ParameterError: the type is another one, or a float is not finite.
        """
        if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
            value = value.item()
        if self.default is None:
            return value
        if isinstance(self.default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if isinstance(self.default, list) and isinstance(value, tuple):
            value = list(value)
        if type(value) is not type(self.default) or (isinstance(value, float) and not math.isfinite(value)):
            raise self._wrong(value)
        if self.choices and value not in self.choices:
            raise ParameterError(f"parameter {self.name!r} is one of {', '.join(self.choices)}, given {value!r}")
        if isinstance(value, list) and self.default:
            element = Parameter(name=self.name, default=self.default[0], help=self.help)
            try:
                value = [element.checked(item) for item in value]
            except ParameterError:
                raise self._wrong(value) from None
        return value

    def parsed(self, text: str) -> Any:
        """The value that `text` means for this parameter.

        Raises:
            ParameterError: the text is no value of the parameter's type.
        """
        if isinstance(self.default, str):
            return self.checked(text)
        try:
            match self.default:
                case bool():
                    return _BOOLEANS[text.strip().lower()]
                case int():
                    return int(text)
                case float():
                    return self.checked(float(text))
                case list():
                    if text.lstrip().startswith("["):
                        return self.checked(ast.literal_eval(text))
                    element = Parameter(name=self.name, default=self.default[0] if self.default else None)
                    return self.checked([element.parsed(item.strip()) for item in text.split(",") if item.strip()])
                case None:
                    return _literal_or_text(text)
                case _:
                    return self.checked(ast.literal_eval(text))
        except (KeyError, ValueError, SyntaxError):
            raise self._wrong(text) from None

    def _wrong(self, value: Any) -> ParameterError:
        example = ", for instance true or false" if isinstance(self.default, bool) else ""
        return ParameterError(
            f"parameter {self.name!r} expects {self.type}{example} (default {self.default!r}), "
            f"given {value!r} ({type(value).__name__})"
        )


_BOOLEANS = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}


def _literal_or_text(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def read_parameters(source: str, *, where: str) -> dict[str, Parameter]:
    """The parameters that the source of a `parameters` cell sets, by name, in its order.

    Args:
        source: Python source; every statement is `name = literal`, with its help in the comment behind it.
        where: what to call the cell in errors.

    Raises:
        ParameterError: the source does not parse, or something else than a literal is assigned.
    """
    try:
        tree = ast.parse(source)
        comments = {
            token.start[0]: token.string.lstrip("# ").strip()
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
    except (SyntaxError, tokenize.TokenError) as error:
        raise ParameterError(f"{where}: the cell tagged `parameters` is no Python: {error}") from None
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        try:
            if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(targets[0], ast.Name):
                raise ValueError
            default = ast.literal_eval(node.value)
        except (ValueError, TypeError):
            raise ParameterError(
                f"{where}: line {node.lineno} of the cell tagged `parameters` is {ast.unparse(node)!r}. "
                "Every line there is `name = literal`; move the rest to the next cell"
            ) from None
        name = targets[0].id
        found[name] = Parameter(name=name, default=default, help=comments.get(node.end_lineno, ""))
    return found


def settings(given: Mapping[str, Any] | Sequence[str] | None, known: Mapping[str, Parameter], *, where: str) -> dict:
    """The values given for a notebook's parameters, checked.

    Args:
        given: values by name, or texts `name=value`.
        known: the notebook's parameters.
        where: the notebook's name, for errors.

    Raises:
        ParameterError: an unknown name (the known ones are listed), a wrong type, no `=` in a text, a name given twice.
    """
    if given is None or isinstance(given, Mapping):
        return {name: _find(name, known, where).checked(value) for name, value in (given or {}).items()}
    return {name: _find(name, known, where).parsed(text) for name, text in _split(given).items()}


def sweep_values(
    given: Mapping[str, Iterable] | Sequence[str] | None, known: Mapping[str, Parameter], *, where: str
) -> dict[str, list]:
    """The values of every swept parameter: `seed=0..4` is 0, 1, 2, 3, 4; `data=tabletop,arid6` is two texts.

    Raises:
        ParameterError: as `settings`; also an empty range, no value, or a value given twice.
    """
    if given is None or isinstance(given, Mapping):
        values = {}
        for name, listed in (given or {}).items():
            if isinstance(listed, str) or not isinstance(listed, Iterable):
                raise ParameterError(f"sweep over {name!r} expects a list of values, given {listed!r}")
            parameter = _find(name, known, where)
            values[name] = [parameter.checked(value) for value in listed]
    else:
        values = {
            name: [value for part in text.split(",") for value in _expanded(part.strip(), _find(name, known, where))]
            for name, text in _split(given).items()
        }
    for name, listed in values.items():
        if not listed:
            raise ParameterError(f"sweep over {name!r} has no value")
        twice = [value for index, value in enumerate(listed) if value in listed[:index]]
        if twice:
            raise ParameterError(f"sweep over {name!r} gives {twice[0]!r} twice")
    return values


def product(values: Mapping[str, Sequence]) -> list[dict[str, Any]]:
    """Every combination of the swept values, the last parameter changing fastest; one empty one without a sweep."""
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def _split(texts: Sequence[str]) -> dict[str, str]:
    if isinstance(texts, str):
        texts = [texts]
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ParameterError(f"expected name=value, given {text!r}")
        if name in found:
            raise ParameterError(f"parameter {name!r} is given twice: {found[name]!r} and {value!r}")
        found[name] = value
    return found


def _find(name: str, known: Mapping[str, Parameter], where: str) -> Parameter:
    if name in known:
        return known[name]
    if not known:
        raise ParameterError(
            f"{where} has no cell tagged `parameters`, so {name!r} cannot be set. Add one, or leave it out"
        )
    close = difflib.get_close_matches(name, known, n=1)
    raise ParameterError(
        f"{where} has no parameter {name!r}."
        + (f" Did you mean {close[0]!r}?" if close else "")
        + " It has:\n"
        + "\n".join(f"  {parameter}" for parameter in known.values())
    )


def _expanded(part: str, parameter: Parameter) -> list:
    bounds = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", part)
    if not bounds or isinstance(parameter.default, str):
        if not part:
            raise ParameterError(f"sweep over {parameter.name!r} has an empty value; write values with commas between")
        return [parameter.parsed(part)]
    first, last = map(int, bounds.groups())
    if first > last:
        raise ParameterError(f"sweep over {parameter.name!r}: {part} runs backwards; write {last}..{first}")
    return [parameter.checked(value) for value in range(first, last + 1)]


@dataclass(frozen=True)
class Tables:
    """What a sweep says about a notebook's metrics."""

    means: pd.DataFrame = field(repr=False)
    """A row per setting and metric: swept parameters but the seed, metric, mean, sd, low, high (95 % interval), n."""
    differences: pd.DataFrame = field(repr=False)
    """A row per metric and two values of a parameter: parameter, a, b, metric, difference (b - a), low, high, n."""


def tables(runs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], *, swept: Sequence[str]) -> Tables:
    """Mean, spread and 95 % intervals of every number over a sweep, and paired differences between its values.

    Two values of a parameter are compared on the runs that agree in everything else, seed included; a run without its
    partner, or without that metric, is left out. Intervals are Student's t; a single run has none.

    Args:
        runs: (values of the swept parameters, metrics) of every passed run.
        swept: names of the swept parameters.
    """
    import pandas as pd

    from .metrics import mean_interval, paired_interval

    settings_names = [name for name in swept if name != REPLICATE]
    numbers = [
        (values, {name: float(value) for name, value in metrics.items() if _is_number(value)})
        for values, metrics in runs
    ]
    metrics_names = list(dict.fromkeys(name for _, metrics in numbers for name in metrics))
    groups: dict[tuple, list[dict[str, float]]] = {}
    for values, metrics in numbers:
        groups.setdefault(tuple(_hashable(values[name]) for name in settings_names), []).append(metrics)
    means = []
    for setting, rows in groups.items():
        for metric in metrics_names:
            if present := [row[metric] for row in rows if metric in row]:
                interval = mean_interval(present)
                spread = statistics.stdev(present) if len(present) > 1 else math.nan
                means.append((*setting, metric, interval.mean, spread, interval.low, interval.high, interval.count))

    differences = []
    for name in settings_names:
        partners: dict[Any, dict[tuple, dict[str, float]]] = {}
        for values, metrics in numbers:
            others = tuple(_hashable(values[other]) for other in swept if other != name)
            partners.setdefault(_hashable(values[name]), {})[others] = metrics
        for a, b in itertools.combinations(partners, 2):
            for metric in metrics_names:
                pairs = [
                    (partners[a][others][metric], partners[b][others][metric])
                    for others in partners[a]
                    if others in partners[b] and metric in partners[a][others] and metric in partners[b][others]
                ]
                if pairs:
                    interval = paired_interval([pair[1] for pair in pairs], [pair[0] for pair in pairs])
                    differences.append((name, a, b, metric, interval.mean, interval.low, interval.high, interval.count))
    return Tables(
        means=pd.DataFrame(means, columns=[*settings_names, "metric", "mean", "sd", "low", "high", "n"]),
        differences=pd.DataFrame(
            differences, columns=["parameter", "a", "b", "metric", "difference", "low", "high", "n"]
        ),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _hashable(value: Any) -> Any:
    return str(value) if isinstance(value, list | dict | set) else value
