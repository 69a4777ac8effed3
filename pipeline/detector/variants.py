"""Shapes of detectors: a front end, published or small, and a head. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from pipeline.errors import InputError
from pipeline.fields import Range, check_ranges, one_of

HeadName = Literal["mean_linear", "mhfa"]
"""Every head, see `heads.HEADS`."""

FRAME_HEADS: tuple[HeadName, ...] = ("mean_linear",)
"""The heads that classify single frames, see `Head.has_frame_logits`."""

CONVOLUTIONS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
"""Kernel and stride of each convolution."""
HOP_SAMPLES = math.prod(stride for _, stride in CONVOLUTIONS)
"""Samples from one frame to the next, after all convolutions: 320 (20 ms)."""

MIN_NUM_SAMPLES = 400
"""Receptive field of one frame (25 ms); a shorter utterance is padded with zeros to this length."""

NORM_EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Shape of a front end, and its dropout during training."""

    num_layers: int
    width: int
    """Channels of a frame in the transformer."""
    ffn_width: int
    num_heads: int
    conv_width: int = 512
    """Channels of the convolutions that turn samples into frames."""
    conv_norm: Literal["layer", "group"] = "layer"
    """layer: over channels, after each convolution; group: over time, after the first convolution only."""
    conv_bias: bool = True
    pre_norm: bool = True
    """Whether a transformer layer normalises its input (XLS-R) or its output (wav2vec 2.0 base)."""
    position_kernel: int = 128
    position_groups: int = 16
    dropout: float = 0.0
    attention_dropout: float = 0.0
    input_dropout: float = 0.0
    layer_drop: float = 0.0
    conv_gradient_scale: float = 1.0
    """Factor applied to the gradient of the convolutions."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kind = str(field.type)  # as written above
            if kind == "int" and (type(value) is not int or value < 1):
                raise ValueError(f"{field.name} is {value!r}; it must be a positive integer")
            if kind == "float" and (type(value) not in (int, float) or not 0 <= value <= 1):
                raise ValueError(f"{field.name} is {value!r}; it must be between 0 and 1")
            if kind == "bool" and type(value) is not bool:
                raise ValueError(f"{field.name} is {value!r}; it must be true or false")
        if self.conv_norm not in ("layer", "group"):
            raise ValueError(f"conv_norm is {self.conv_norm!r}; known: layer, group")
        for name, divisor in (("num_heads", self.num_heads), ("position_groups", self.position_groups)):
            if self.width % divisor:
                raise ValueError(f"width {self.width} is not a multiple of {name} {divisor}")


HeadWidth = Annotated[int, Range(1, 8192)]

HEAD_OF: dict[str, HeadName] = {
    "num_heads": "mhfa",
    "compression_width": "mhfa",
    "embedding_width": "mhfa",
}
"""The settings that only one head has."""


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Which head a detector has, and the settings of that head."""

    name: HeadName = "mean_linear"
    """mean_linear: mean over frames and one linear layer, as in the released detectors; mhfa: multi-head factorised
    attention over weighted sums of all layers (Peng et al., 2022)."""
    num_heads: Annotated[int, Range(1, 1024)] = 8
    """mhfa: number of attention heads."""
    compression_width: HeadWidth = 128
    """mhfa: channels to which the frames are compressed before attention."""
    embedding_width: HeadWidth = 256
    """mhfa: channels of the embedding."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for field in fields(self):
            head = HEAD_OF.get(field.name, self.name)
            if head != self.name and getattr(self, field.name) != field.default:
                flag = f"--{field.name.replace('_', '-')}"
                raise InputError(f"{flag} has no effect on {self.name}; leave it out, or add --name {head}")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of this head by name, without those that only other heads have."""
        names = [field.name for field in fields(self) if HEAD_OF.get(field.name, self.name) == self.name]
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        numbers = [f"{name} {value}" for name, value in self.settings.items() if name != "name"]
        return f"{self.name} ({', '.join(numbers)})" if numbers else self.name


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    """Front end and head of a detector."""

    front_end: EncoderConfig
    head: HeadConfig = HeadConfig()


_LARGE = EncoderConfig(num_layers=24, width=1024, ffn_width=4096, num_heads=16)
_1B = EncoderConfig(num_layers=48, width=1280, ffn_width=5120, num_heads=16, input_dropout=0.1)
_TINY = EncoderConfig(
    num_layers=2, width=64, ffn_width=128, num_heads=4, conv_width=32, position_kernel=16, position_groups=4
)

VARIANTS: dict[str, EncoderConfig] = {
    "w2v_small": EncoderConfig(
        num_layers=12,
        width=768,
        ffn_width=3072,
        num_heads=12,
        conv_norm="group",
        conv_bias=False,
        pre_norm=False,
        dropout=0.1,
        attention_dropout=0.1,
        input_dropout=0.1,
        layer_drop=0.05,
        conv_gradient_scale=0.1,
    ),
    "w2v_large": _LARGE,
    "mms_300m": _LARGE,
    "xlsr_300m": _LARGE,
    "mms_1b": _1B,
    "xlsr_1b": _1B,
    "xlsr_2b": EncoderConfig(num_layers=48, width=1920, ffn_width=7680, num_heads=16, input_dropout=0.1),
    "hubert_xl": EncoderConfig(num_layers=48, width=1280, ffn_width=5120, num_heads=16, conv_bias=False),
    "tiny": _TINY,
    "tiny_group": replace(_TINY, conv_norm="group", conv_bias=False, pre_norm=False),
}
"""Published front ends, and two small ones for tests and the demo."""

VariantName = Annotated[str, one_of("variant", VARIANTS)]
"""Type of a flag: the name of a front end."""


def frame_counts(num_samples: int) -> list[int]:
    """Count the frames of an utterance after each convolution; a shorter one is padded to `MIN_NUM_SAMPLES`."""
    counts = [max(num_samples, MIN_NUM_SAMPLES)]
    for kernel, stride in CONVOLUTIONS:
        counts.append((counts[-1] - kernel) // stride + 1)
    return counts[1:]
