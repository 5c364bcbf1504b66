"""What the notebook and the evidence say of a study: its students, its table, its numbers (ours)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from vkdlab.data.grounding import GroundingDataset
from vkdlab.emtm.aggregate import Integrated, recovered
from vkdlab.emtm.ensemble import Ensemble
from vkdlab.emtm.soft_losses import gradient_norms, released_label
from vkdlab.emtm.students import StudentSpec, TrainedStudent
from vkdlab.emtm.study import BEST, CONSTANT, KAU, NAIVE, ORACLE, REMEDIES, UNIFORM, Study
from vkdlab.emtm.teacher_outputs import TeacherOutputs
from vkdlab.emtm.teachers import RGB
from vkdlab.metrics import Mean, mean_interval

if TYPE_CHECKING:
    # Whoever asks a student one question does not wait for tables and figures.
    import pandas as pd
    import plotly.graph_objects as go

ALONE, EMTM_STUDENT = "student alone", "EMTM"
FEW = {
    ALONE: StudentSpec(),
    f"student from {UNIFORM}": StudentSpec(label=UNIFORM),
    f"student from {KAU}": StudentSpec(label=KAU),
    EMTM_STUDENT: StudentSpec(label=KAU, shared_encoder=True),
}
LABELS = FEW | {
    "shared encoder alone": StudentSpec(shared_encoder=True),
    f"student from {CONSTANT}": StudentSpec(label=CONSTANT),
    f"student from {BEST}": StudentSpec(label=BEST),
    f"student from {NAIVE}": StudentSpec(label=NAIVE),
    "unlabelled, KAU, hard": StudentSpec(label=KAU, labels="hard", unlabelled=True),
}
ALL = LABELS | {
    "student alone, RGB": StudentSpec(features=(RGB,)),
    "unlabelled, KAU, hard, RGB": StudentSpec(label=KAU, labels="hard", unlabelled=True, features=(RGB,)),
}
AGGREGATES = {"kau": KAU, "constant": CONSTANT, "uniform": UNIFORM, "best_held_out": BEST, "oracle": ORACLE}
"""Who weighs the teachers: short name to the name in the tables."""
STEPS = {
    ALONE: ALONE,
    "several teachers": f"student from {UNIFORM}",
    "KAU": f"student from {KAU}",
    "shared encoder": EMTM_STUDENT,
}
"""What is added, in turn, and the student that has it."""
METRICS = ("R1@0.3", "R1@0.5", "R1@0.7", "mIoU")


def student_specs(
    which: str, *, aggregate: str = "kau", shared_encoder: bool = True, distill: bool = True
) -> dict[str, StudentSpec]:
    """The students of the notebook.

    Args:
        which: "few"; "labels": one from every label, and one on unlabelled videos; "all": also with pictures alone.
        aggregate: whose label EMTM's student learns from, one of `AGGREGATES`.
        shared_encoder: whether an isomorphic teacher learns on its encoder.
        distill: whether it learns from a label at all.

    Raises:
        ValueError: no such choice.
    """
    sets = {"few": FEW, "labels": LABELS, "all": ALL}
    if which not in sets:
        raise ValueError(f"expected students {', '.join(sets)}, got {which!r}")
    if aggregate not in AGGREGATES:
        raise ValueError(f"expected aggregate {', '.join(AGGREGATES)}, got {aggregate!r}")
    ours = StudentSpec(label=AGGREGATES[aggregate] if distill else "", shared_encoder=shared_encoder)
    return sets[which] | {EMTM_STUDENT: ours}


def labels_of(specs: Mapping[str, StudentSpec]) -> list[str]:
    """The labels that these students learn from."""
    return list(dict.fromkeys(spec.label for spec in specs.values() if spec.label))


def label_table(study: Study) -> pd.DataFrame:
    """Every teacher's and every aggregate's metrics on the test split in per cent, and what the weights are worth."""
    import pandas as pd

    rows = study.rows
    uniform, oracle = (rows[name]["R1@0.5"].value for name in (UNIFORM, ORACLE))
    table = pd.DataFrame(
        {name: {metric: 100 * row[metric].value for metric in METRICS} for name, row in rows.items()}
    ).T
    for name in study.test:
        table.loc[name, "rank correlation"] = study.trust(name).value
        table.loc[name, "of the oracle's gain (%)"] = 100 * recovered(rows[name]["R1@0.5"].value, uniform, oracle)
    table = table.round({"rank correlation": 2}).round(dict.fromkeys([*METRICS, "of the oracle's gain (%)"], 1))
    return table.astype(object).where(table.notna(), "–")


def tried_table(tried: Mapping[str, Integrated], *, committed: Sequence[Mapping[str, Any]] = ()) -> pd.DataFrame:
    """R1@0.5 of remedies in per cent: of this run where it tried them, and over the seeds of committed runs."""
    import pandas as pd

    table = pd.DataFrame(index=[CONSTANT, KAU, *REMEDIES])
    for name, label in tried.items():
        table.loc[name, "this run"] = f"{100 * label.metrics()['R1@0.5'].value:.1f}"
    for name in table.index if committed else ():
        key = f"{name if name in (CONSTANT, KAU) else f'remedy, {name}'} R1@0.5"
        reached = mean_interval([100 * run["metrics"][key] for run in committed])
        table.loc[name, "committed runs"] = f"{reached.mean:.1f} ± {reached.high - reached.mean:.1f}"
    return table.astype(object).where(table.notna(), "–")


def query_groups(outputs: TeacherOutputs, dataset: GroundingDataset) -> dict[str, list[str]]:
    """The kind of every query, for figures that group by it."""
    kinds = {query.id: query.kind or "any" for query in dataset.dataset.queries}
    return {"kind of query": [kinds[name] for name in outputs.ids]}


def gain_steps(committed: Sequence[Mapping[str, Any]], trained: Mapping[str, TrainedStudent]) -> dict[str, list[float]]:
    """R1@0.5 of the students of `STEPS`, one number a seed: of committed runs, or of this run where there are none."""
    if committed:
        return {step: [run["metrics"][f"{name} R1@0.5"] for run in committed] for step, name in STEPS.items()}
    return {step: [trained[name].metrics["R1@0.5"].value] for step, name in STEPS.items()}


def over_seeds(
    committed: Sequence[Mapping[str, Any]], study: Study, trained: Mapping[str, TrainedStudent], *, subtitle: str = ""
) -> go.Figure:
    """Labels and students over the seeds of committed runs, with this run beside them; this run alone without any."""
    from vkdlab.emtm import gain_figures

    sources = {name: f"{name} R1@0.5" for name in (UNIFORM, CONSTANT, BEST, NAIVE, KAU, ORACLE, *FEW)}
    fresh = {name: value for name, value in study_metrics(study, trained).items() if name.endswith("R1@0.5")}
    fresh = {name: value.value if isinstance(value, Mean) else value for name, value in fresh.items()}
    if not committed:
        runs = [{"parameters": {"seed": 0}, "metrics": fresh}]
        return gain_figures.over_seeds_paired(runs, sources, control=CONSTANT, label="this run", subtitle=subtitle)
    return gain_figures.over_seeds_paired(committed, sources, control=CONSTANT, fresh=fresh, subtitle=subtitle)


def softmax_slip(
    ensemble: Ensemble, label: Integrated, *, temperatures: Sequence[float] = (1.0, 3.0)
) -> tuple[dict[str, float], dict[str, Float[np.ndarray, " l"]]]:
    """Gradients of the losses at a teacher's logits, and what softmaxes make of one label.

    Returns:
        Name of a loss to the norm of its gradient, and stage to distribution over the clips of one query.
    """
    student = ensemble.test.start.mean(1)
    logits = student.clamp(min=1e-6).log()
    norms = {}
    for temperature in temperatures:
        found = gradient_norms(logits, label.start, label.mask, temperature=temperature)
        norms |= {
            "hard label": found.hard,
            f"ours, T = {temperature:g}": found.soft,
            f"released with one softmax, T = {temperature:g}": found.one_softmax,
            f"as released, T = {temperature:g}": found.released,
        }
    row = int(label.start.amax(1).argsort()[len(label.ids) // 2])
    valid = label.mask[row]
    stages = {"integrated label": label.start[row][valid]}
    stages |= {
        f"after {word}": released_label(label.start[row : row + 1][:, valid], temperature=1.0, softmaxes=count)[0]
        for count, word in ((1, "one softmax"), (2, "two"))
    }
    return norms, {name: values.numpy() for name, values in stages.items()}


def study_metrics(
    study: Study, trained: Mapping[str, TrainedStudent], tried: Mapping[str, Integrated] | None = None
) -> dict[str, Mean | float]:
    """All numbers of a study by "source metric", as the notebook keeps them; `tried` are remedies, by name."""
    rows = study.rows | {name: student.metrics for name, student in trained.items()}
    found: dict[str, Mean | float] = {
        f"{name} {metric}": row[metric] for name, row in rows.items() for metric in METRICS
    }
    for name, label in (tried or {}).items():
        metrics = label.metrics()
        found |= {f"remedy, {name} {metric}": metrics[metric] for metric in ("R1@0.5", "mIoU")}
    uniform, oracle = (rows[name]["R1@0.5"].value for name in (UNIFORM, ORACLE))
    for name in study.test:
        if name != UNIFORM and study.trust(name).count:
            found[f"{name} rank correlation"] = study.trust(name).value
        share = recovered(rows[name]["R1@0.5"].value, uniform, oracle)
        if np.isfinite(share):
            found[f"{name} of the oracle's gain"] = share
    found["best teacher in hindsight R1@0.5"] = rows[study.best_in_hindsight]["R1@0.5"]
    found["log-linear pooling"] = float(study.mixing["pooling"] == "log_linear")
    found["calibrated"] = float(study.mixing["calibrate"])
    found["fitted by moments"] = float(study.mixing["objective"] == "moments")
    kau = study.aggregators[KAU]
    found |= {f"{name} temperature": float(value) for name, value in zip(kau.names, kau.temperatures, strict=True)}
    mean = study.test[KAU].weights.mean((0, 2))
    return found | {f"{name} weight": float(value) for name, value in zip(kau.names, mean, strict=True)}
