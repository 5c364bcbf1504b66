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

from vkdlab.delta.convert import convert
from vkdlab.delta.costs import Costs, Macs
from vkdlab.delta.deployment import load, save
from vkdlab.delta.gates import cost_loss, cost_share, sample_gate
from vkdlab.delta.inspection import Inspection, LayerMaps
from vkdlab.delta.layers import DeltaBlock, DeltaConv2d, spatial_svd, svd_rank
from vkdlab.delta.memory import keep_freed_memory
from vkdlab.delta.network import DeltaNetwork, Step, Traced
from vkdlab.delta.state import DeltaState

__all__ = [
    "Costs",
    "DeltaBlock",
    "DeltaConv2d",
    "DeltaNetwork",
    "DeltaState",
    "Inspection",
    "LayerMaps",
    "Macs",
    "Step",
    "Traced",
    "convert",
    "cost_loss",
    "cost_share",
    "keep_freed_memory",
    "load",
    "sample_gate",
    "save",
    "spatial_svd",
    "svd_rank",
]
