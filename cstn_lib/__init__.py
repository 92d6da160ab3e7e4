"""Convolutional STN for weakly supervised object localization: the library behind the notebooks."""

from cstn_lib.config import ModelConfig
from cstn_lib.cstn import ConvSTN2d, conv_stn2d
from cstn_lib.models import build_model
from cstn_lib.pyramid import CSTNLocalizer
from cstn_lib.support.errors import InputError

__all__ = [
    "CSTNLocalizer",
    "ConvSTN2d",
    "InputError",
    "ModelConfig",
    "build_model",
    "conv_stn2d",
]
