"""Encode audio with a codec of FFmpeg and decode it again, through PyAV, in this process.

Packets go from the encoder to the decoder without a container.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.data.audio.waveform import Waveform


def transcode(
    samples: Waveform,
    encoder: str,
    decoder: str,
    *,
    sample_rate: int,
    bit_rate: int | None = None,
    options: Mapping[str, str] | None = None,
    decoder_options: Mapping[str, str] | None = None,
) -> tuple[Waveform, int]:
    """Pass mono samples through a codec.

    Args:
        samples: [num_samples] at `sample_rate`, within ±1.
        encoder: FFmpeg's name of the encoder.
        decoder: FFmpeg's name of the decoder.
        sample_rate: rate in Hz at which the encoder works.
        bit_rate: bit rate in bit/s; None if the codec has only one.
        options: FFmpeg options of the encoder.
        decoder_options: FFmpeg options of the decoder.

    Returns:
        The decoded samples, with the delay of the codec in front, and their rate in Hz.
    """
    writer = av.AudioCodecContext.create(encoder, "w")
    assert isinstance(writer, av.AudioCodecContext) and writer.codec.audio_formats is not None
    writer.sample_rate, writer.layout, writer.format = sample_rate, "mono", writer.codec.audio_formats[0]
    writer.time_base, writer.thread_count = Fraction(1, sample_rate), 1
    if bit_rate is not None:
        writer.bit_rate = bit_rate
    writer.options = dict(options or {})
    writer.open()
    reader = av.AudioCodecContext.create(decoder, "r")
    assert isinstance(reader, av.AudioCodecContext)
    reader.sample_rate, reader.layout, reader.thread_count = sample_rate, "mono", 1
    reader.options = dict(decoder_options or {})
    if writer.extradata:
        reader.extradata = writer.extradata
    frame_size = writer.frame_size or len(samples)
    # A whole number of frames, of which the last ones push out what the codec holds back.
    num_frames = -(-(len(samples) + sample_rate // 10) // frame_size) + 1
    padded = np.zeros((1, num_frames * frame_size), np.float32)
    padded[0, : len(samples)] = samples
    whole = av.AudioFrame.from_ndarray(padded, format="fltp", layout="mono")
    whole.sample_rate, whole.pts, whole.time_base = sample_rate, 0, Fraction(1, sample_rate)
    # The resampler converts the format and cuts frames; Python would take longer for that than some encoders need.
    cutter = av.AudioResampler(writer.format, "mono", sample_rate, frame_size=frame_size)
    frames = cutter.resample(whole) + cutter.resample(None)
    packets = [packet for frame in (*frames, None) for packet in writer.encode(frame)]
    decoded = [frame for packet in (*packets, None) for frame in reader.decode(packet)]
    return np.concatenate([_to_float(frame) for frame in decoded]), decoded[0].sample_rate


def has_encoder(name: str) -> bool:
    """Whether this build of PyAV has an encoder."""
    try:
        av.Codec(name, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def _to_float(frame: av.AudioFrame) -> NDArray[np.float32]:
    """Convert a decoded mono frame to samples [num_samples] with full scale at ±1."""
    dtype = np.dtype(av.audio.frame.format_dtypes[frame.format.name])
    samples: NDArray[Any] = np.frombuffer(memoryview(frame.planes[0]), dtype, frame.samples)
    if dtype.kind == "f":
        return samples.astype(np.float32)
    return samples.astype(np.float32) / np.float32(2.0 ** (8 * dtype.itemsize - 1))
