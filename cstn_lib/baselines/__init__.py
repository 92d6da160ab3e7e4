"""The methods the paper compares with (Tables IV, V) or argues against, one per module."""

from cstn_lib.baselines.acol import ACoL
from cstn_lib.baselines.adl import ADL
from cstn_lib.baselines.cam import CAM
from cstn_lib.baselines.deformable import DeformableLocalizer
from cstn_lib.baselines.has import HaS
from cstn_lib.baselines.spg import SPG
from cstn_lib.baselines.stn import GlobalSTN

__all__ = [
    "ADL",
    "CAM",
    "SPG",
    "ACoL",
    "DeformableLocalizer",
    "GlobalSTN",
    "HaS",
]
