"""Synthesise speech with espeak-ng, in this process."""

from __future__ import annotations

import ctypes
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError

SPEECH_RATE = 22_050
"""Sample rate in Hz of espeak-ng."""

Waveform: TypeAlias = NDArray[np.float32]
"""[num_samples] Mono audio with full scale at ±1."""

# Constants from espeak-ng's speak_lib.h.
_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_UTF8 = 1
_RATE, _PITCH, _PITCH_RANGE = 1, 3, 4

_ON_AUDIO = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True, slots=True)
class Voice:
    """A language and a manner of speaking."""

    language: str
    """espeak-ng's name for the language, such as `en-gb`."""
    variant: str
    """Timbre: `m1` … `m8`, `f1` … `f5`."""
    pitch: int
    """0 (low) to 99 (high)."""
    pitch_range: int
    """0 (monotone) to 99 (lively)."""
    words_per_minute: int


class Synthesizer:
    """A private copy of espeak-ng: the same calls in the same order give the same samples.

    espeak-ng keeps the state of its pitch flutter and noise in static variables of the library, so its output depends
    on everything it spoke before in the process. Each instance therefore loads its own copy of the library.

    Args:
        seed: Seeds espeak-ng's noise generator.

    Raises:
        InputError: espeak-ng is not installed.
    """

    def __init__(self, seed: int = 0) -> None:
        try:
            import espeakng_loader
        except ModuleNotFoundError as error:
            raise InputError(
                "the demo needs espeak-ng, which is not installed; run: pip install 'bonafide[demo]'"
            ) from error
        # espeak-ng limits the path of its data to 160 characters, so give it a short symbolic link.
        self._folder = tempfile.TemporaryDirectory(prefix="espeak-")
        folder = Path(self._folder.name)
        library = folder / Path(espeakng_loader.get_library_path()).name
        shutil.copyfile(espeakng_loader.get_library_path(), library)
        data = folder / "espeak-ng-data"
        data.symlink_to(espeakng_loader.get_data_path(), target_is_directory=True)
        self._library = ctypes.CDLL(str(library))
        self._received: list[NDArray[np.int16]] = []
        self._on_audio = _ON_AUDIO(self._receive)  # keep a reference: the library only has a pointer
        rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, str(data).encode(), _DO_NOT_EXIT)
        assert rate == SPEECH_RATE, rate
        self._library.espeak_SetSynthCallback(self._on_audio)
        # espeak_Initialize seeds the noise with the time of day, so set the seed afterwards.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))

    def __enter__(self) -> Synthesizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.espeak_Terminate()
        self._folder.cleanup()

    def speak(self, text: str, voice: Voice) -> Waveform:
        """Synthesise a text as [num_samples] at `SPEECH_RATE`.

        Raises:
            ValueError: espeak-ng does not have the voice, or produces no audio for the text.
        """
        name = f"{voice.language}+{voice.variant}"
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {name!r}")
        self._library.espeak_SetParameter(_RATE, voice.words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, voice.pitch, 0)
        self._library.espeak_SetParameter(_PITCH_RANGE, voice.pitch_range, 0)
        self._received.clear()
        encoded = text.encode() + b"\0"
        status = self._library.espeak_Synth(
            encoded, ctypes.c_size_t(len(encoded)), 0, 1, 0, _UTF8, None, None
        )
        assert status == 0, status
        self._library.espeak_Synchronize()
        if not self._received:
            raise ValueError(f"espeak-ng produced no audio for {text!r} with voice {name!r}")
        return np.concatenate(self._received).astype(np.float32) / np.float32(32_768)

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], num_samples: int, _events: object) -> int:
        if samples and num_samples > 0:
            self._received.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        return 0  # continue


def trim_silence(speech: Waveform, threshold: float = 1e-3) -> Waveform:
    """Remove the digital silence before and after speech: samples whose magnitude is at most `threshold`."""
    loud = np.flatnonzero(np.abs(speech) > threshold)
    return speech[loud[0] : loud[-1] + 1] if loud.size else speech[:0]
