"""Convert decoded blocks to a 16 kHz mono waveform: downmix, checks of the values, resampling.

A waveform that exceeds full scale is scaled down to fit. Clipping would add an artefact that is not in the recording,
and detectors normalise the level of each utterance anyway. Channels are averaged; channels that cancel each other are
rejected. Of an impulse response, the first channel is taken: the mean of two microphones is the response of no room.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import soxr

from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.reader import Header, Samples
from pipeline.data.audio.waveform import MIN_SAMPLES, PCM16_SCALE, SAMPLE_RATE, Waveform

RESAMPLERS = ("soxr_hq", "torchaudio")

CANCELLING_RATIO = 0.1
"""Channels cancel each other if the downmix keeps less than this share of their level (−20 dB). Two independent
channels keep 0.7 of it, and one active channel among sixty-four silent ones keeps 0.125."""


def to_waveform(
    blocks: Iterator[Samples],
    header: Header,
    name: str,
    resampler: str,
    *,
    is_impulse_response: bool = False,
) -> Waveform:
    """Downmix and resample the blocks of a file, and check their values.

    Args:
        blocks: the decoded samples.
        header: header of the file.
        name: file name for error messages.
        resampler: one of `RESAMPLERS`.
        is_impulse_response: take the first channel, allow any length, and scale the peak to full scale.

    Raises:
        AudioError: too_short, cancelling, silent, not_finite.
    """
    if is_impulse_response:
        mono = _not_silent((block[:, 0] for block in blocks), name)
    else:
        mono = _not_silent(_downmixed(blocks, header.num_channels, name), name)
    if header.sample_rate == SAMPLE_RATE:
        parts = list(mono)
    elif resampler == "soxr_hq":
        parts = list(_resampled(mono, header.sample_rate))
    else:
        parts = [_resample_torchaudio(np.concatenate(list(mono)), header.sample_rate)]
    waveform = parts[0] if len(parts) == 1 else np.concatenate(parts)
    min_samples = 1 if is_impulse_response else MIN_SAMPLES
    if len(waveform) < min_samples:
        raise AudioError(
            "too_short",
            name,
            f"{len(waveform)} samples at {SAMPLE_RATE} Hz; at least {min_samples} are needed",
        )
    peak = max(float(waveform.max()), -float(waveform.min()))
    if not np.isfinite(peak):  # resampling spreads what is not finite, so that it cannot get lost
        raise AudioError("not_finite", name, "NaN or infinity among the samples")
    if peak > 1 or is_impulse_response:
        waveform = waveform / np.float32(peak)
    return waveform


def _downmixed(blocks: Iterator[Samples], num_channels: int, name: str) -> Iterator[Waveform]:
    """Yield the mean of the channels.

    Raises:
        AudioError: cancelling: the mean has a small share of the channels' own level.
    """
    if num_channels == 1:
        for block in blocks:
            yield block[:, 0]
        return
    share = np.float32(1 / num_channels)
    mixed, channels = _Level(), [_Level() for _ in range(num_channels)]
    for block in blocks:
        # Channel by channel: the last bit of a matrix product depends on the processor and the block size, and
        # numpy's mean over the short axis is five times slower. A sum beyond float32 becomes infinite, which
        # `to_waveform` rejects.
        with np.errstate(all="ignore"):
            mono = block[:, 0] + block[:, 1]
            for channel in range(2, num_channels):
                mono += block[:, channel]
            mono *= share
            mixed.add(mono)
            for channel, level in enumerate(channels):
                level.add(block[:, channel])
        yield mono
    own = float(np.sqrt(np.mean([level.variance for level in channels])))
    kept = float(np.sqrt(mixed.variance))
    if own * PCM16_SCALE >= 1 and kept < CANCELLING_RATIO * own:
        detail = f"the mean of {num_channels} channels keeps {kept / own:.1%} of their level"
        raise AudioError("cancelling", name, detail)


class _Level:
    """The variance of samples that arrive in blocks."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, samples: Waveform) -> None:
        self._count += len(samples)
        self._sum += float(samples.sum(dtype=np.float64))
        self._squares += float(np.dot(samples, samples))

    @property
    def variance(self) -> float:
        return max(self._squares - self._sum**2 / self._count, 0.0) / self._count if self._count else 0.0


def _not_silent(blocks: Iterator[Waveform], name: str) -> Iterator[Waveform]:
    """Yield the blocks; reject audio that varies by less than one step of PCM16, once all of it has been seen."""
    lowest, highest = np.inf, -np.inf
    for block in blocks:
        if highest - lowest < 1 / PCM16_SCALE:  # it varies as well if one of them is NaN
            lowest = float(np.minimum(lowest, block.min()))
            highest = float(np.maximum(highest, block.max()))
        yield block
    if highest - lowest < 1 / PCM16_SCALE:
        raise AudioError(
            "silent", name, f"all samples are within {max(highest - lowest, 0):.1e} of each other"
        )


def _resampled(blocks: Iterator[Waveform], sample_rate: int) -> Iterator[Waveform]:
    stream = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block[:, np.newaxis])[:, 0]  # one axis would take longer
    yield stream.resample_chunk(np.empty((0, 1), np.float32), last=True)[:, 0]


def _resample_torchaudio(waveform: Waveform, sample_rate: int) -> Waveform:
    import torch
    import torchaudio.functional

    resampled = torchaudio.functional.resample(torch.from_numpy(waveform), sample_rate, SAMPLE_RATE)
    return np.asarray(resampled.numpy(), dtype=np.float32)
