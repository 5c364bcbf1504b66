"""EMTM: temporal sentence grounding with several teachers (Liang et al., arXiv 2308.03725).

A video and a sentence go in, one moment `[start_s, end_s]` comes out. Big networks of different kinds each learn the
task in their own way; a light student learns from all of them at once, through one soft label that a Knowledge
Aggregation Unit mixes per video, and through an encoder that it shares with one of its teachers.

This room holds the first of the teachers, the span teacher: two rounds of dual attention between clips and words, a
matching head that says where the moment's inside is, and a predictor that finds the start first and the end given the
start.

Notebook: `02_teacher_training`.
"""

from vkdlab.emtm.moments import best_moments, moment_to_clips, non_maximum_suppression
from vkdlab.emtm.networks import Encoder, NetworkConfig, SpanBranch, SpanConfig, SpanNetwork
from vkdlab.emtm.outputs import Boundaries, MapOutput, ProposalOutput, RegressionOutput, SpanOutput
from vkdlab.emtm.predictions import Grounded, blind_guess, measure, predict, surest_wrong
from vkdlab.emtm.teacher import GroundingTeacher
from vkdlab.emtm.teachers import RECIPES, TrainedTeacher, committed_runs, train_span_teacher, train_where_present

__all__ = [
    "RECIPES",
    "Boundaries",
    "Encoder",
    "Grounded",
    "GroundingTeacher",
    "MapOutput",
    "NetworkConfig",
    "ProposalOutput",
    "RegressionOutput",
    "SpanBranch",
    "SpanConfig",
    "SpanNetwork",
    "SpanOutput",
    "TrainedTeacher",
    "best_moments",
    "blind_guess",
    "committed_runs",
    "measure",
    "moment_to_clips",
    "non_maximum_suppression",
    "predict",
    "surest_wrong",
    "train_span_teacher",
    "train_where_present",
]
