"""Speak a sentence with espeak-ng, in this process, in any of its languages and voices."""

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
"""Hz at which espeak-ng speaks."""

Waveform: TypeAlias = NDArray[np.float32]
"""Mono audio of shape [num_samples], full scale at ±1."""

# From espeak-ng's speak_lib.h.
_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_UTF8 = 1
_RATE, _PITCH, _PITCH_RANGE = 1, 3, 4

_ON_AUDIO = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True, slots=True)
class Voice:
    """Somebody who can speak: a language and a way to speak it."""

    language: str
    """espeak-ng's name of the language, such as `en-gb`."""
    variant: str
    """Timbre: `m1` … `m8`, `f1` … `f5`."""
    pitch: int
    """0 (low) to 99 (high)."""
    pitch_range: int
    """0 (monotone) to 99 (lively)."""
    words_per_minute: int


class Synthesizer:
    """An espeak-ng of its own: the same calls in the same order give the same samples.

    espeak-ng keeps its pitch flutter and its noise in static variables of the library, so what it says
    depends on everything it said before in the process. Each instance loads a private copy of it.
    """

    def __init__(self, seed: int = 0) -> None:
        try:
            import espeakng_loader
        except ModuleNotFoundError as error:
            raise InputError(
                "the demo speaks with espeak-ng, which is not installed: pip install 'bonafide[demo]'"
            ) from error
        # espeak-ng has 160 characters for its path, so the data is reached through a short link.
        self._folder = tempfile.TemporaryDirectory(prefix="espeak-")
        folder = Path(self._folder.name)
        library = folder / Path(espeakng_loader.get_library_path()).name
        shutil.copyfile(espeakng_loader.get_library_path(), library)
        data = folder / "espeak-ng-data"
        data.symlink_to(espeakng_loader.get_data_path(), target_is_directory=True)
        self._library = ctypes.CDLL(str(library))
        self._received: list[NDArray[np.int16]] = []
        self._on_audio = _ON_AUDIO(self._receive)  # the library holds a bare pointer to it
        rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, str(data).encode(), _DO_NOT_EXIT)
        assert rate == SPEECH_RATE, rate
        self._library.espeak_SetSynthCallback(self._on_audio)
        # Initialising seeds the noise with the time of day.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))

    def __enter__(self) -> Synthesizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.espeak_Terminate()
        self._folder.cleanup()

    def speak(self, text: str, voice: Voice) -> Waveform:
        """Say `text`; the result [num_samples] is at `SPEECH_RATE`. An unknown language is a ValueError."""
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
            raise ValueError(f"espeak-ng says nothing for {text!r} in {name}")
        return np.concatenate(self._received).astype(np.float32) / np.float32(32_768)

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], num_samples: int, _events: object) -> int:
        if samples and num_samples > 0:
            self._received.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        return 0  # go on


def trim(speech: Waveform, threshold: float = 1e-3) -> Waveform:
    """Cut the digital silence that espeak-ng leaves before and after what it says."""
    loud = np.flatnonzero(np.abs(speech) > threshold)
    return speech[loud[0] : loud[-1] + 1] if loud.size else speech[:0]
