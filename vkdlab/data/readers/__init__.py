"""One reader per form in which labels are published; a manifest's `reader` names its own."""

from __future__ import annotations

from collections.abc import Callable

from ..datasets import Dataset
from .common import Request
from .grounding import activitynet_captions, charades_sta, gmdcsa24, qvhighlights, tacos
from .others import actionsense, camvid, clips, davis, epic_kitchens, packages
from .questions import how2qa, nextqa, star, tvqa, vlep

READERS: dict[str, Callable[[Request], Dataset]] = {
    "actionsense": actionsense,
    "activitynet-captions": activitynet_captions,
    "camvid": camvid,
    "charades-sta": charades_sta,
    "clips": clips,
    "davis": davis,
    "epic-kitchens": epic_kitchens,
    "gmdcsa24": gmdcsa24,
    "how2qa": how2qa,
    "nextqa": nextqa,
    "packages": packages,
    "qvhighlights": qvhighlights,
    "star": star,
    "tacos": tacos,
    "tvqa": tvqa,
    "vlep": vlep,
}

__all__ = ["READERS", "Request"]
