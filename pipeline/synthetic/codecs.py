"""Encode and decode a waveform with a codec of FFmpeg, through PyAV."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import av
import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import signal

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

    Packets go from the encoder to the decoder without a container.

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
    # Silence at the end flushes the samples that the codec delays.
    samples = np.pad(source, (0, sample_rate // 5))
    writer = av.AudioCodecContext.create(encoder, "w")
    assert isinstance(writer, av.AudioCodecContext)
    writer.sample_rate, writer.bit_rate, writer.layout = sample_rate, bit_rate, "mono"
    writer.time_base = Fraction(1, sample_rate)
    assert writer.codec.audio_formats is not None
    writer.format = writer.codec.audio_formats[0]
    writer.options = dict(options or {})
    writer.open()
    reader = av.AudioCodecContext.create(decoder, "r")
    assert isinstance(reader, av.AudioCodecContext)
    reader.sample_rate, reader.layout = sample_rate, "mono"
    if writer.extradata:
        reader.extradata = writer.extradata
    decoded = [
        _to_float(frame)
        for packet in _packets(writer, samples, sample_rate)
        for frame in reader.decode(packet)
    ]
    rate = reader.sample_rate  # opus always decodes to 48 kHz
    result = soxr.resample(np.concatenate(decoded), rate, RECORDING_RATE)
    return _align(result, waveform)


def _packets(
    writer: av.AudioCodecContext, samples: Waveform, sample_rate: int
) -> list[av.Packet[av.AudioStream]]:
    """Encode mono samples [num_samples] in frames of the size that the encoder requires."""
    assert writer.format is not None
    converter = av.AudioResampler(format=writer.format, layout="mono", rate=sample_rate)
    packets: list[av.Packet[av.AudioStream]] = []
    size = writer.frame_size or 1024
    for start in range(0, samples.size - size + 1, size):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + size], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, start, Fraction(1, sample_rate)
        for converted in converter.resample(frame):
            packets += writer.encode(converted)
    return packets + writer.encode(None)


def _to_float(frame: av.AudioFrame) -> NDArray[np.float32]:
    """Convert a decoded mono frame to samples [num_samples] with full scale at ±1."""
    samples = np.asarray(frame.to_ndarray().reshape(-1))
    full_scale = 1.0 if samples.dtype.kind == "f" else 2.0 ** (8 * samples.dtype.itemsize - 1)
    return (samples.astype(np.float64) / full_scale).astype(np.float32)


def _align(decoded: Waveform, source: Waveform) -> Waveform:
    """Undo the delay of `decoded`, up to 0.1 s, and cut it to the length of `source`."""
    max_delay = RECORDING_RATE // 10
    padded = np.pad(decoded, (0, max(0, source.size + max_delay - decoded.size)))
    correlation = signal.correlate(padded[: source.size + max_delay], source, mode="valid", method="fft")
    delay = int(np.argmax(np.abs(correlation)))
    return np.asarray(padded[delay : delay + source.size], dtype=np.float32)
