"""Other tools in the exam: they register to the same template, from the same affine alignment."""

from __future__ import annotations

from typing import Any

import torch
from peers import ALIGNED
from torch import Tensor

from atlasmith.core.fields import invert
from atlasmith.registration.template import TemplateRegistration


class PeerRegistration(TemplateRegistration):
    """Register images to a trained template by another tool, which sees the first channel.

    Args:
        peer: A name in ALIGNED.
        *arguments: As of `TemplateRegistration`; without steps, the images stay as they are aligned.
    """

    def __init__(self, peer: str, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.peer = ALIGNED[peer]

    def _displacements(self, template: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        grid = self.model.grid
        if not self.steps:
            zero = image.new_zeros(len(image), grid.ndim, *image.shape[2:])
            return zero, zero
        pairs = zip(template[:, 0], image[:, 0], strict=True)
        forward = torch.stack([self.peer(fixed.contiguous(), moving, grid) for fixed, moving in pairs])
        return forward, invert(forward, iterations=40)
