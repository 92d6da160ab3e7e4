"""What a network says of a batch, whichever network it is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cstn_lib.joint import joint_log_prob

__all__ = ["LocalizerOutput"]


@dataclass
class LocalizerOutput:
    """What a network says of a batch.

    Attributes:
        scores: (B, C, h_s, w_s) class scores, one a level.
        thetas: (B, h_s, w_s, 2, 3), one a level; empty where the network has no transform.
        boxes: (B, N, 4) the box of every location, ``xyxy`` in [0, 1].
        default_boxes: (N, 4) the same at theta = identity.
    """

    scores: list[Tensor]
    thetas: list[Tensor]
    boxes: Tensor
    default_boxes: Tensor

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(h_s, w_s) of each level."""
        return [(score.shape[2], score.shape[3]) for score in self.scores]

    @property
    def log_joint(self) -> Tensor:
        """(B, C, N) log p(c, l, s), computed in float32 whatever the network ran in."""
        return joint_log_prob([score.float() for score in self.scores])
