"""Numerical precision: autocast, and whether float32 products may use TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from pipeline.detector.config import Precision

HALF_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""16-bit types of autocast; weights, gradients and optimiser state are float32 in every precision."""


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Compute matrix products and convolutions in half precision for bf16 and fp16; do nothing otherwise."""
    if precision not in HALF_DTYPES:
        return nullcontext()
    return torch.autocast(device.type, HALF_DTYPES[precision])


@contextmanager
def tf32_policy(device: torch.device, precision: Precision) -> Iterator[None]:
    """Allow TF32 on a GPU for every precision but `fp32`; torch's default allows it in convolutions."""
    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul.allow_tf32
    convolution = torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = convolution
