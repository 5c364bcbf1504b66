"""Delta Distillation: a cheap student predicts how the teacher's features change (Habibian et al., ECCV 2022).

Most of a frame was in the frame before. A per-frame network goes in (`convert`), and one comes out that computes every
layer on key frames only. On the frames between, each layer's student, a convolution of a quarter of the rank, turns
the change of its input into the change of its output, which is added to what the layer gave on the key frame. Nothing
is warped, and no optical flow is needed. Students start as the spatial SVD of their teacher and learn from its changes;
one gate per layer says which keep a student of full size. `DeltaNetwork.deploy` gives the form that runs: frame by
frame (`stream`), or all frames of a clip at once (`clip`). What is remembered of a key frame is a value, `DeltaState`.

Ours: students of whole non-linear blocks (`DeltaBlock`), a budget for the search, key frames where the picture cuts,
and a form in which a small student needs no subtraction of whole maps.

Notebook: `04_delta_features`.
"""

from vkdlab.delta.browsable import predictions_of
from vkdlab.delta.choice import chosen
from vkdlab.delta.convert import convert
from vkdlab.delta.costs import Costs, Macs
from vkdlab.delta.curves import Curves, measure_study
from vkdlab.delta.deployment import load, save
from vkdlab.delta.distill import Config, DeltaDistillation
from vkdlab.delta.evaluate import agreement, consistency, cut, evaluate, follow
from vkdlab.delta.gates import cost_loss, cost_share, sample_gate
from vkdlab.delta.inspection import Inspection, LayerMaps
from vkdlab.delta.layers import DeltaBlock, DeltaConv2d, spatial_svd, svd_rank
from vkdlab.delta.memory import keep_freed_memory
from vkdlab.delta.network import DeltaNetwork, Step, Traced
from vkdlab.delta.points import Point, at_cost, points_of, table
from vkdlab.delta.real import load_videos, on_videos, steadiness
from vkdlab.delta.recipes import CAMVID, RECIPES, load_splits, recipe_for
from vkdlab.delta.shown import busiest, class_maps, found_boxes, frames_of, pictures_of
from vkdlab.delta.state import DeltaState
from vkdlab.delta.still import camera_motion, fixed_cameras, on_fixed_cameras
from vkdlab.delta.student_files import latest_student, load_student, save_student
from vkdlab.delta.study import Study, train_study
from vkdlab.delta.tasks import DETECTION, SEGMENTATION, task_of
from vkdlab.delta.tiles import StillTiles, receptive_reach
from vkdlab.delta.watch import watch

__all__ = [
    "CAMVID",
    "DETECTION",
    "RECIPES",
    "SEGMENTATION",
    "Config",
    "Costs",
    "Curves",
    "DeltaBlock",
    "DeltaConv2d",
    "DeltaDistillation",
    "DeltaNetwork",
    "DeltaState",
    "Inspection",
    "LayerMaps",
    "Macs",
    "Point",
    "Step",
    "StillTiles",
    "Study",
    "Traced",
    "agreement",
    "at_cost",
    "busiest",
    "camera_motion",
    "chosen",
    "class_maps",
    "consistency",
    "convert",
    "cost_loss",
    "cost_share",
    "cut",
    "evaluate",
    "fixed_cameras",
    "follow",
    "found_boxes",
    "frames_of",
    "keep_freed_memory",
    "latest_student",
    "load",
    "load_splits",
    "load_student",
    "load_videos",
    "measure_study",
    "on_fixed_cameras",
    "on_videos",
    "pictures_of",
    "points_of",
    "predictions_of",
    "receptive_reach",
    "recipe_for",
    "sample_gate",
    "save",
    "save_student",
    "spatial_svd",
    "steadiness",
    "svd_rank",
    "table",
    "task_of",
    "train_study",
    "watch",
]
