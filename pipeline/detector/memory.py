"""Estimates the peak memory of a forward pass at inference term by term, and what of it fits into a limit.

The first convolution decides: its output is 6.25 MiB per second of audio for the published front ends, and the norm
that follows holds two to four tensors of that size. Only attention without a fused kernel can need more, because its
weights are quadratic in the number of frames. Weights of the detector are not counted: they are in memory before.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.detector.config import Precision
from pipeline.detector.variants import EncoderConfig, HeadConfig, frame_counts

GIB = 2**30

SAFETY = 0.9
"""Fraction of free memory, or of the largest batch that fits, that is used; the rest allows for fragmentation and
communication buffers."""

WAVEFORM_COPIES = 7
"""Copies of the waveforms in float32, from the samples as given to the input of the first convolution."""

POSITION_COPIES = 8
"""Copies of the frames in the layouts of a grouped convolution, measured with oneDNN."""

EXPLICIT_COPIES = 3
"""Attention weights before and after softmax, and with the mask, without a fused kernel."""


@dataclass(frozen=True, slots=True)
class ForwardMemory:
    """Bytes that each stage of a forward pass holds at its peak; earlier stages have released theirs."""

    convolutions: int
    """The first convolution, and the norm over its output."""
    position: int
    attention: int
    """One layer, residual included."""
    feed_forward: int
    """One layer, residual included."""
    waveforms: int
    """Held through all stages."""

    @property
    def peak(self) -> int:
        """The largest stage, and the waveforms."""
        *stages, waveforms = astuple(self)
        return int(max(stages)) + int(waveforms)


@dataclass(frozen=True, slots=True)
class Inference:
    """How a detector computes, as far as memory depends on it."""

    front_end: EncoderConfig
    precision: Precision = "fp32"
    device: str = "cpu"
    """Type of the torch device."""
    has_fused_attention: bool = True
    """Whether attention runs without a matrix of all pairs of frames in memory."""
    head: HeadConfig = HeadConfig()

    def forward_memory(self, num_utterances: int, num_samples: int, *, is_padded: bool) -> ForwardMemory:
        """Estimate the memory of a forward pass without gradients.

        Args:
            num_utterances: rows of the batch.
            num_samples: length of the longest row, at 16 kHz.
            is_padded: whether any row is shorter.
        """
        config = self.front_end
        element = 2 if self.precision in ("bf16", "fp16") else 4
        first, *_, last = frame_counts(num_samples)
        frames = num_utterances * last * config.width * element
        hidden = num_utterances * last * config.ffn_width * element
        heads = num_utterances * config.num_heads * last**2 * element
        # The sums of hidden states that become keys and values of the head grow in float32 through all layers.
        sums = 2 * num_utterances * last * config.width * 4 if self.head.name == "mhfa" else 0
        return ForwardMemory(
            convolutions=round(
                num_utterances * first * config.conv_width * self._norm_bytes(element, is_padded=is_padded)
            ),
            position=(1 + POSITION_COPIES) * frames,
            # Residual, normed, query, key, value, mixed and output.
            attention=sums + 7 * frames + (0 if self.has_fused_attention else EXPLICIT_COPIES * heads),
            # Residual, normed and output, and the wide frames before and after the activation.
            feed_forward=sums + 3 * frames + 2 * hidden,
            waveforms=WAVEFORM_COPIES * num_utterances * num_samples * 4,
        )

    def _norm_bytes(self, element: int, *, is_padded: bool) -> int:
        """Bytes per number of the first convolution's output, while it is normalised."""
        if self.front_end.conv_norm == "layer":
            # On a GPU, autocast normalises in float32: a copy and a result beside the output in half precision.
            in_float32 = element == 2 and self.device == "cuda"
            return element + 8 if in_float32 else 2 * element
        # The output as it was, if not float32; then in float32: as it is, centred and scaled; and centred with the
        # padding at zero.
        return (element if element == 2 else 0) + 4 * (4 if is_padded else 3)

    def utterance_bytes(self, num_samples: int) -> int:
        """Peak memory of one utterance alone."""
        return self.forward_memory(1, num_samples, is_padded=False).peak

    def max_utterances(self, num_samples: int, limit_bytes: float) -> int:
        """How many utterances of at most this length fit into a batch, at least 1."""
        each = self.forward_memory(1, num_samples, is_padded=True).peak
        return max(1, int(min(limit_bytes / each, 2**31)))

    def longest_seconds(self, limit_bytes: float) -> float:
        """The longest utterance that fits alone, in seconds, to within 0.1 s."""
        low, high = 0.0, 1.0
        while self.utterance_bytes(int(high * SAMPLE_RATE)) <= limit_bytes:
            low, high = high, 2 * high
        while high - low > 0.1:
            middle = (low + high) / 2
            if self.utterance_bytes(int(middle * SAMPLE_RATE)) <= limit_bytes:
                low = middle
            else:
                high = middle
        return low
