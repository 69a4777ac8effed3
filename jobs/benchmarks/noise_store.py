"""A store of noise with the rhythm, level and durations of speech, for benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.audio.waveform import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.data.store.index import Index
    from pipeline.storage import Folder


def make_store(num_utterances: int, folder: Path) -> tuple[Folder, Index]:
    """Write noise with the rhythm and level of speech as loose FLAC files, and build shards from them."""
    import numpy as np

    from pipeline.data.audio.flac import encode_flac, quantise
    from pipeline.data.corpora.recipe import Recipe
    from pipeline.data.store import shards
    from pipeline.data.store.index import load_index
    from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot
    from pipeline.storage import Folder

    rng = np.random.default_rng(0)
    speech = speech_like(rng, 60 * SAMPLE_RATE)
    (folder / "loose").mkdir()
    members: list[Any] = []
    for number, seconds in enumerate(durations(rng, num_utterances)):
        begin = rng.integers(len(speech) - int(seconds * SAMPLE_RATE))
        piece = speech[begin : begin + int(seconds * SAMPLE_RATE)]
        path = f"{number:06d}.flac"
        (folder / "loose" / path).write_bytes(encode_flac(quantise(piece)))
        row: dict[str, Any] = dict.fromkeys(shards.ShardMember.__annotations__)
        row |= {
            "start": None,
            "end": None,
            "uid": f"{number:016x}",
            "id": path,
            "path": path,
            "split": "train",
        }
        members.append(row | {"corpus": "noise", "label": ("spoof", "bonafide")[number % 2]})
    store, loose = Folder(str(folder / "store")), Folder(str(folder / "loose"))
    each = -(-len(members) // 8)
    written = [
        shards.write_shard(
            f"noise-{begin}", members[begin : begin + each], loose, store, licence="", resampler="soxr_hq"
        )
        for begin in range(0, len(members), each)
    ]
    corpus = CorpusSnapshot("noise", "train", "", None, "", "", len(members), {}, {}, {}, tuple(written))
    return store, load_index(store, Snapshot(1, "", {"noise": corpus}), Recipe(), "train")


def durations(rng: np.random.Generator, num: int) -> NDArray[np.float64]:
    """Draw durations in seconds, distributed as in the corpora."""
    return rng.lognormal(1.5, 0.65, num).clip(1, 20)


def speech_like(rng: np.random.Generator, num_samples: int) -> NDArray[np.float32]:
    """Generate low-passed noise modulated at the rate of syllables; FLAC compresses it to about 65 MB per hour."""
    import numpy as np
    import scipy.signal

    noise = scipy.signal.lfilter([0.14, 0.14], [1, -0.72], rng.standard_normal(num_samples))
    time_s = np.arange(num_samples) / SAMPLE_RATE
    syllables = np.abs(np.sin(2 * np.pi * 2.1 * time_s)) ** 3 * (0.5 + 0.5 * np.sin(2 * np.pi * 0.3 * time_s))
    waveform = 0.3 * noise / np.abs(noise).max() * (0.03 + syllables)
    waveform += 2e-4 * rng.standard_normal(num_samples)
    return np.asarray(waveform, np.float32)
