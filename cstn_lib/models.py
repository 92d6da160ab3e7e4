"""The registry: the one place where a configuration becomes a network."""

from __future__ import annotations

from cstn_lib.baselines import ADL, CAM, SPG, ACoL, DeformableLocalizer, GlobalSTN, HaS
from cstn_lib.config import ModelConfig
from cstn_lib.outputs import Localizer
from cstn_lib.pyramid import CSTNLocalizer, PyramidLocalizer
from cstn_lib.support.errors import InputError, unknown_name

HEADS = {
    "cstn": CSTNLocalizer,
    "plain": PyramidLocalizer,
    "deform": DeformableLocalizer,
    "stn": GlobalSTN,
    "cam": CAM,
    "has": HaS,
    "acol": ACoL,
    "spg": SPG,
    "adl": ADL,
}
"""Every method, by the name that `cstn_lib.config.ModelConfig.head` takes."""


def build_model(config: ModelConfig) -> Localizer:
    """The network of a configuration, with its backbone's starting weights loaded.

    Raises:
        InputError: a name is unknown, or the weights cannot be had.
    """
    if config.head not in HEADS:
        raise unknown_name("head", config.head, HEADS)
    if config.num_classes < 1:
        raise InputError(f"num_classes {config.num_classes}: expected 1 or more")
    return HEADS[config.head](config)
