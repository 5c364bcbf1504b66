"""EMTM: temporal sentence grounding with several teachers (Liang et al., arXiv 2308.03725).

A video and a sentence go in, one moment `[start_s, end_s]` comes out. Four big networks learn that, each in its own
way: they score every clip as start or end, every pair of clips, a few proposals, or regress one moment. `unify` brings
all answers to two distributions over the clips. A Knowledge Aggregation Unit weighs the teachers, per query and
boundary, and mixes them into one label (`aggregate`). From it and the truth a small student learns, while an isomorphic
teacher pulls at the encoder that both share (`distill`); only the student is kept, asked (`ground`) and exported.

Ours: the unit learns on queries that the teachers never saw (`ensemble`), their confidence is calibrated, constant
weights stand beside it as the control (`study`), and students also learn on unlabelled videos (`students`).

Notebooks: `02_teacher_training` for the teachers, `03_kau_weights` for whom to trust and what reaches the student.
"""

from vkdlab.emtm.aggregate import AggregateConfig, Aggregator, Integrated, fit_aggregator, integrate, recovered, trust
from vkdlab.emtm.browsable import predictions_of
from vkdlab.emtm.distill import EMTM, Config, Inspection
from vkdlab.emtm.ensemble import (
    Ensemble,
    answer,
    describe,
    disagreements,
    measure_unified,
    train_ensemble,
    transfer_rows,
)
from vkdlab.emtm.export import export_student
from vkdlab.emtm.ground import Grounding, ground
from vkdlab.emtm.labelled import DistillationBatch, DistillationDataset, Label, Part
from vkdlab.emtm.map_teacher import MapConfig, MapNetwork
from vkdlab.emtm.moments import best_moments, moment_to_clips, non_maximum_suppression
from vkdlab.emtm.networks import Encoder, NetworkConfig, SpanBranch, SpanConfig, SpanNetwork
from vkdlab.emtm.outputs import Boundaries, MapOutput, ProposalOutput, RegressionOutput, SpanOutput
from vkdlab.emtm.predictions import Grounded, blind_guess, ceiling, measure, predict, surest_wrong
from vkdlab.emtm.proposal_teacher import ProposalConfig, ProposalNetwork
from vkdlab.emtm.regression_teacher import RegressionConfig, RegressionNetwork
from vkdlab.emtm.soft_losses import gradient_norms, released_soft_loss, soft_loss
from vkdlab.emtm.student_files import Student, latest_student, load_student, save_student
from vkdlab.emtm.students import StudentSpec, TrainedStudent, train_students
from vkdlab.emtm.study import Study, compare, remedies
from vkdlab.emtm.study_report import (
    gain_steps,
    label_table,
    labels_of,
    over_seeds,
    query_groups,
    softmax_slip,
    student_specs,
    study_metrics,
    tried_table,
)
from vkdlab.emtm.teacher import GroundingTeacher
from vkdlab.emtm.teacher_outputs import TeacherOutputs, collect
from vkdlab.emtm.teachers import RECIPES, TEACHERS, Recipe, TeacherSpec, TrainedTeacher, choose_teachers, train_teachers
from vkdlab.emtm.unify import unify

__all__ = [
    "EMTM",
    "RECIPES",
    "TEACHERS",
    "AggregateConfig",
    "Aggregator",
    "Boundaries",
    "Config",
    "DistillationBatch",
    "DistillationDataset",
    "Encoder",
    "Ensemble",
    "Grounded",
    "Grounding",
    "GroundingTeacher",
    "Inspection",
    "Integrated",
    "Label",
    "MapConfig",
    "MapNetwork",
    "MapOutput",
    "NetworkConfig",
    "Part",
    "ProposalConfig",
    "ProposalNetwork",
    "ProposalOutput",
    "Recipe",
    "RegressionConfig",
    "RegressionNetwork",
    "RegressionOutput",
    "SpanBranch",
    "SpanConfig",
    "SpanNetwork",
    "SpanOutput",
    "Student",
    "StudentSpec",
    "Study",
    "TeacherOutputs",
    "TeacherSpec",
    "TrainedStudent",
    "TrainedTeacher",
    "answer",
    "best_moments",
    "blind_guess",
    "ceiling",
    "choose_teachers",
    "collect",
    "compare",
    "describe",
    "disagreements",
    "export_student",
    "fit_aggregator",
    "gain_steps",
    "gradient_norms",
    "ground",
    "integrate",
    "label_table",
    "labels_of",
    "latest_student",
    "load_student",
    "measure",
    "measure_unified",
    "moment_to_clips",
    "non_maximum_suppression",
    "over_seeds",
    "predict",
    "predictions_of",
    "query_groups",
    "recovered",
    "released_soft_loss",
    "remedies",
    "save_student",
    "soft_loss",
    "softmax_slip",
    "student_specs",
    "study_metrics",
    "surest_wrong",
    "train_ensemble",
    "train_students",
    "train_teachers",
    "transfer_rows",
    "tried_table",
    "trust",
    "unify",
]
