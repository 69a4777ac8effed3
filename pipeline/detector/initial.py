"""Initial weights of a network.

On the meta device a network has shapes and no values. There these functions do nothing, whereas torch would import its
compiler, which takes two seconds, only to compute nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def draw_normal_(weight: Tensor, std: float, generator: torch.Generator | None = None) -> None:
    """Draw a weight from a normal distribution; without a generator, from the one of torch."""
    if not weight.is_meta:
        nn.init.normal_(weight, std=std, generator=generator)


def fill_norms_(norms_11K: Tensor, weight_OIK: Tensor) -> None:
    """Fill in the norm of a convolution's weight at each of its K positions."""
    if not weight_OIK.is_meta:
        norms_11K.copy_(weight_OIK.norm(dim=(0, 1), keepdim=True))
