"""Encode and decode a waveform with a codec of FFmpeg."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import soxr
from scipy import signal

from pipeline.data.audio.transcode import transcode
from pipeline.synthetic.recording import RECORDING_RATE
from pipeline.synthetic.speech import Waveform


def encode_and_decode(
    waveform: Waveform,
    encoder: str,
    decoder: str,
    *,
    sample_rate: int,
    bit_rate: int,
    options: Mapping[str, str] | None = None,
) -> Waveform:
    """Pass a waveform through a codec and remove the codec's delay.

    Args:
        waveform: [num_samples] at 16 kHz.
        encoder: FFmpeg's name of the encoder.
        decoder: FFmpeg's name of the decoder.
        sample_rate: Rate in Hz at which the codec works.
        bit_rate: Bit rate in bit/s.
        options: FFmpeg options of the encoder.

    Returns:
        The decoded waveform [num_samples] at 16 kHz.
    """
    source = soxr.resample(waveform, RECORDING_RATE, sample_rate)
    decoded, rate = transcode(
        source, encoder, decoder, sample_rate=sample_rate, bit_rate=bit_rate, options=options
    )
    return _align(soxr.resample(decoded, rate, RECORDING_RATE), waveform)  # opus always decodes to 48 kHz


def _align(decoded: Waveform, source: Waveform) -> Waveform:
    """Undo the delay of `decoded`, up to 0.1 s, and cut it to the length of `source`."""
    max_delay = RECORDING_RATE // 10
    padded = np.pad(decoded, (0, max(0, source.size + max_delay - decoded.size)))
    correlation = signal.correlate(padded[: source.size + max_delay], source, mode="valid", method="fft")
    delay = int(np.argmax(np.abs(correlation)))
    return np.asarray(padded[delay : delay + source.size], dtype=np.float32)
