"""Recurrent refinement at several levels, whose last output teaches the earlier ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atlasmith.core.sampling import half_shape, resize
from atlasmith.networks.blocks import CONVOLUTION, crop, head, pad_to_multiple, strided_blocks
from atlasmith.networks.registration.base import Network, RegistrationNetwork
from atlasmith.networks.registration.coarse_to_fine import encode


class ConvGRU(nn.Module):
    """Build a gated recurrent unit whose products are convolutions (Ballas et al. 2016, arXiv:1511.06432).

    Args:
        ndim: 2 or 3.
        inputs: Channels of the input.
        width: Channels of the hidden state.
    """

    def __init__(self, ndim: int, inputs: int, width: int) -> None:
        super().__init__()
        self.gates = CONVOLUTION[ndim](inputs + width, 2 * width, 3, padding=1)
        self.candidate = CONVOLUTION[ndim](inputs + width, width, 3, padding=1)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Map an input (B, inputs, *shape) and the hidden state (B, width, *shape) to the next one."""
        update, reset = self.gates(torch.cat([x, hidden], dim=1)).sigmoid().chunk(2, dim=1)
        candidate = self.candidate(torch.cat([x, reset * hidden], dim=1)).tanh()
        return (1 - update) * hidden + update * candidate


class SDHNet(RegistrationNetwork):
    """Build an encoder and gated recurrent units at its levels, applied to the image as warped so far.

    (SDHNet, Zhou et al. 2023, doi:10.1109/TMI.2023.3244333.) In each iteration, with the same weights, the
    features of both images update a hidden state at each level, and from that follows a field at each level;
    their sum is added to the output. The self-distillation term is the mean squared difference, from the
    final output, which it doesn't change, of the output after each iteration, and of what the last iteration
    would give if the field of each level, times the number of levels, were the whole sum.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        iterations: Number of iterations.
        distillation: Weight of the self-distillation term.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (8, 16, 32),
        iterations: int = 3,
        distillation: float = 0.1,
    ) -> None:
        super().__init__()
        self.outputs, self.iterations, self.distillation = outputs, iterations, distillation
        self.channels, self.multiple = list(channels), 2 ** len(channels)
        self.encoder = nn.ModuleList(strided_blocks(ndim, inputs, channels))
        self.units = nn.ModuleList(ConvGRU(ndim, 2 * width + outputs, width) for width in channels)
        self.heads = nn.ModuleList(head(ndim, width, outputs, bounded=True) for width in channels)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        shape = fixed.shape[2:]
        targets, images = (encode(self.encoder, pad_to_multiple(x, self.multiple)) for x in (fixed, moving))
        half = targets[0].shape[2:]
        output = fixed.new_zeros(len(fixed), self.outputs, *half)
        hidden = [torch.zeros_like(target) for target in targets]
        outputs: list[Tensor] = []
        for _ in range(self.iterations):
            fields, before = [], output
            for level, (target, image) in enumerate(zip(targets, images, strict=True)):
                so_far = resize(before, target.shape[2:])
                moved = self.warp_by_output(image, so_far, half)
                x = torch.cat([target, moved.to(target), so_far], dim=1)
                hidden[level] = self.units[level](x, hidden[level])
                fields.append(resize(self.heads[level](hidden[level]), half))
            output = before + torch.stack(fields).sum(0)
            outputs.append(output)
        self.terms = {}
        if self.training:
            final = output.detach()
            students = [*outputs[:-1], *(before + len(fields) * field for field in fields)]
            losses = [(student - final).square().mean() for student in students]
            self.terms["distillation"] = self.distillation * torch.stack(losses).mean()
        return crop(output, half_shape(shape))


sdhnet = Network(
    SDHNet,
    "Gated recurrent refinement at several levels, with self-distillation (SDHNet). For subtle changes.",
)
