"""Statistics of the spectrum of a waveform: what a generator, a vocoder, a codec or a microphone leaves in it."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from pipeline.data.audio.waveform import SAMPLE_RATE

# B: utterances, T: samples, F: frames of 20 ms every 10 ms, D: bands.

FRAME_SAMPLES = SAMPLE_RATE // 50
HOP_SAMPLES = FRAME_SAMPLES // 2

NUM_BANDS = 80
"""Bands of 100 Hz, from 0 to 8 kHz. Narrow ones at high frequencies matter: a mel scale tells systems less well."""

FLOOR = 1e-6
"""Added to the power of a band, relative to that of the waveform: silence is not minus infinity."""

SPECTRUM_WIDTH = 4 * NUM_BANDS - 1
"""Numbers that `spectral_statistics` gives."""


def spectral_statistics(waveform_BT: Tensor, num_samples_B: Tensor) -> Tensor:
    """Describe the logarithm of the power in each band and frame: [B, SPECTRUM_WIDTH] in float32.

    The numbers are its mean over frames, its standard deviation over frames, and the standard deviations of its
    difference from the frame before and from the band below. Padding has no effect.

    Args:
        waveform_BT: normalised, in float32; a shorter waveform than one frame is padded to one.
        num_samples_B: length of each waveform, on any device.
    """
    waveform_BT = F.pad(waveform_BT, (0, max(0, FRAME_SAMPLES - waveform_BT.shape[1])))
    window = torch.hann_window(FRAME_SAMPLES, device=waveform_BT.device)
    spectrum = torch.stft(
        waveform_BT, FRAME_SAMPLES, HOP_SAMPLES, window=window, center=False, return_complex=True
    )
    power = spectrum[:, 1:].abs().square() / window.square().sum()  # without 0 Hz
    num_rows, num_bins, num_frames = power.shape
    in_band = power.reshape(num_rows, NUM_BANDS, num_bins // NUM_BANDS, num_frames).mean(dim=2)
    level_BDF = torch.log(in_band + FLOOR)
    num_frames_B = (
        num_samples_B.to(waveform_BT.device).clamp(min=FRAME_SAMPLES) - FRAME_SAMPLES
    ) // HOP_SAMPLES + 1
    mean_BD, deviation_BD = _moments(level_BDF, num_frames_B)
    _, in_time_BD = _moments(level_BDF.diff(dim=2), num_frames_B - 1)
    _, between_bands_BD = _moments(level_BDF.diff(dim=1), num_frames_B)
    return torch.cat([mean_BD, deviation_BD, in_time_BD, between_bands_BD], dim=1)


def _moments(values_BDF: Tensor, num_frames_B: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation [B, D] of the first frames of each utterance; 0 of none."""
    frame_F = torch.arange(values_BDF.shape[2], device=values_BDF.device)
    is_valid_B1F = (frame_F < num_frames_B[:, None])[:, None]
    count_B1 = num_frames_B.clamp(min=1)[:, None]
    mean_BD = values_BDF.where(is_valid_B1F, 0.0).sum(dim=2) / count_B1
    centred_BDF = (values_BDF - mean_BD[:, :, None]).where(is_valid_B1F, 0.0)
    return mean_BD, (centred_BDF.square().sum(dim=2) / count_B1).sqrt()
