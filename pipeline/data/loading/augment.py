"""What training does to a waveform, at random but repeatably: each augmentation is a frozen value and one call.

An augmentation takes a waveform and a generator and returns a new waveform of the same length; all it draws comes
from the generator, so the same seed gives the same samples. `Chain`, `OneOf` and `Sometimes` put them together, and
`AUGMENTATIONS` names the ones a configuration can ask for.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.fft
import scipy.signal
import soundfile
import soxr

from pipeline.data.audio.waveform import SAMPLE_RATE, Waveform
from pipeline.data.loading.rawboost import ALGORITHMS, RawBoost, level
from pipeline.errors import InputError

CODECS: dict[str, tuple[str, str, int]] = {
    "ulaw": ("WAV", "ULAW", 8_000),
    "alaw": ("WAV", "ALAW", 8_000),
    "gsm": ("WAV", "GSM610", 8_000),
    "mp3": ("MP3", "MPEG_LAYER_III", SAMPLE_RATE),
    "opus": ("OGG", "OPUS", SAMPLE_RATE),
}
"""Format and subtype of libsndfile, and the rate (Hz) at which the codec is at home."""


class Augmentation(Protocol):
    """A random change of a waveform that keeps its length."""

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the changed waveform; the given one stays as it is."""


@dataclass(frozen=True, slots=True)
class Chain:
    """One augmentation after the other."""

    steps: tuple[Augmentation, ...]

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform after the last step."""
        for step in self.steps:
            waveform = step(waveform, rng)
        return waveform


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of several augmentations, each as likely as the others."""

    choices: tuple[Augmentation, ...]

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return what the drawn augmentation makes of the waveform."""
        return self.choices[int(rng.integers(len(self.choices)))](waveform, rng)


@dataclass(frozen=True, slots=True)
class Sometimes:
    """An augmentation that leaves some utterances alone."""

    step: Augmentation
    probability: float = 0.5

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform changed with the given probability."""
        return self.step(waveform, rng) if rng.random() < self.probability else waveform


@dataclass(frozen=True, slots=True)
class Gain:
    """Another level. It matters only before what is not linear: detectors normalise each utterance."""

    gain_db: tuple[float, float] = (-20.0, 6.0)

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform scaled, and clipped where it exceeds full scale."""
        louder: Waveform = waveform * _ratio(rng.uniform(*self.gain_db))
        return np.clip(louder, -1, 1, out=louder)


@dataclass(frozen=True, slots=True)
class Noise:
    """Additive noise whose power falls with frequency as 1/f^slope: 0 white, 1 pink, 2 brown."""

    snr_db: tuple[float, float] = (5.0, 30.0)
    slope: tuple[float, float] = (0.0, 2.0)

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform with noise at a random SNR."""
        slope, snr_db = rng.uniform(*self.slope), rng.uniform(*self.snr_db)
        size = scipy.fft.next_fast_len(len(waveform), real=True)
        spectrum = scipy.fft.rfft(rng.standard_normal(size, dtype=np.float32))
        # Below 20 Hz the slope ends: brown noise would be nothing but a drift.
        frequencies = np.maximum(scipy.fft.rfftfreq(size, 1 / SAMPLE_RATE), 20.0)
        spectrum *= (frequencies ** (-slope / 2)).astype(np.float32)
        noise: Waveform = scipy.fft.irfft(spectrum, size)[: len(waveform)]
        noise *= np.float32(level(waveform) / level(noise)) * _ratio(-snr_db)
        noise += waveform
        return noise


@dataclass(frozen=True, slots=True)
class Reverberation:
    """A synthetic room: the direct sound, then noise that decays exponentially."""

    rt60_s: tuple[float, float] = (0.1, 0.8)
    """Time in which the tail falls by 60 dB."""
    direct_to_tail_db: tuple[float, float] = (-3.0, 12.0)
    predelay_s: tuple[float, float] = (0.001, 0.01)

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform in the room, at its old level; the tail beyond its end is lost."""
        rt60, direct_db, predelay = (
            rng.uniform(*interval) for interval in (self.rt60_s, self.direct_to_tail_db, self.predelay_s)
        )
        time = np.arange(int(rt60 * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
        tail = rng.standard_normal(len(time), dtype=np.float32) * np.exp(
            np.float32(-np.log(1000) / rt60) * time
        )
        tail *= _ratio(-direct_db) / np.float32(level(tail))
        response = np.concatenate([np.zeros(int(predelay * SAMPLE_RATE), dtype=np.float32), tail])
        response[0] = 1
        wet: Waveform = scipy.signal.oaconvolve(waveform, response)[: len(waveform)]
        wet *= np.float32(level(waveform) / level(wet))
        return wet


@dataclass(frozen=True, slots=True)
class LowPass:
    """A narrower band, as cheap microphones and old recordings have it."""

    cutoff_hz: tuple[float, float] = (2500.0, 7500.0)
    num_taps: int = 129

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform without what lies above a random frequency; nothing is delayed."""
        taps = scipy.signal.firwin(self.num_taps, rng.uniform(*self.cutoff_hz), fs=SAMPLE_RATE).astype(
            np.float32
        )
        filtered: Waveform = scipy.signal.oaconvolve(waveform, taps)[self.num_taps // 2 :][: len(waveform)]
        return filtered


@dataclass(frozen=True, slots=True)
class Resampling:
    """Down to a lower rate and up again, each time by a resampler of random quality."""

    rate_hz: tuple[float, float] = (6_000.0, 15_000.0)
    qualities: tuple[str, ...] = ("QQ", "LQ", "MQ", "HQ")

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform with the band, the aliases and the images of the detour."""
        rate = round(rng.uniform(*self.rate_hz))
        down, up = (self.qualities[int(place)] for place in rng.integers(len(self.qualities), size=2))
        narrow = soxr.resample(waveform, SAMPLE_RATE, rate, down)
        return _fitted(soxr.resample(narrow, rate, SAMPLE_RATE, up), len(waveform))


@dataclass(frozen=True, slots=True)
class Codec:
    """Encoded and decoded again, at a random quality where the codec has one.

    A core encodes gsm at some 400 times real time, mp3 at 200 and opus at 60: ask for the slow ones sparingly.
    """

    names: tuple[str, ...] = tuple(CODECS)

    def __post_init__(self) -> None:
        if unknown := set(self.names) - CODECS.keys():
            raise ValueError(f"unknown codecs {sorted(unknown)}; known: {', '.join(CODECS)}")

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform as the listener at the other end would have it."""
        form, subtype, rate = CODECS[self.names[int(rng.integers(len(self.names)))]]
        quality = {"compression_level": float(rng.uniform(0.3, 1))} if form != "WAV" else {}
        sent = np.clip(soxr.resample(waveform, SAMPLE_RATE, rate, "HQ"), -1, 1)
        file = io.BytesIO()
        soundfile.write(file, sent, rate, format=form, subtype=subtype, **quality)
        file.seek(0)
        heard, _ = soundfile.read(file, dtype="float32")
        return _fitted(soxr.resample(heard, rate, SAMPLE_RATE, "HQ"), len(waveform))


AUGMENTATIONS: dict[str, Augmentation] = {
    "gain": Gain(),
    "noise": Noise(),
    "reverberation": Reverberation(),
    "low_pass": LowPass(),
    "resampling": Resampling(),
    "codec": Codec(),
    **{f"rawboost{algo}": RawBoost(algo) for algo in ALGORITHMS},
}
"""By name, with the parameters of their class; rawboost5 is the one of the AntiDeepfake recipe."""


def augmentation(names: Sequence[str]) -> Augmentation | None:
    """The named augmentations one after the other; None for none.

    Raises:
        InputError: a name is unknown.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise InputError(f"unknown augmentation {name!r}; known: {', '.join(sorted(AUGMENTATIONS))}")
    if len(names) == 1:
        return AUGMENTATIONS[names[0]]
    return Chain(tuple(AUGMENTATIONS[name] for name in names)) if names else None


def _ratio(level_db: float) -> np.float32:
    return np.float32(10 ** (level_db / 20))


def _fitted(waveform: Waveform, num_samples: int) -> Waveform:
    """Resamplers and codecs of blocks round the length: cut the end, or lengthen it by zeros."""
    fitted = np.zeros(num_samples, dtype=np.float32)
    shared = min(num_samples, len(waveform))
    fitted[:shared] = waveform[:shared]
    return fitted
