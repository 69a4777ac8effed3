"""Measures the speed of each augmentation and of each codec on one core."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.benchmarks.noise_store import speech_like
from jobs.benchmarks.table import Measured
from pipeline.data.audio.waveform import SAMPLE_RATE

if TYPE_CHECKING:
    from pipeline.data.audio.waveform import Waveform
    from pipeline.data.loading.augment.codecs import Format
    from pipeline.data.loading.augment.composition import Augmenter
    from pipeline.data.loading.augment.recordings import Recordings
    from pipeline.data.store.index import Index
    from pipeline.storage import Folder


def measure_augmentations(store: Folder, index: Index, rounds: int, folder: Path) -> Iterator[Measured]:
    """Run each augmentation, and each codec at each end of its bit rates, on the same utterances.

    Args:
        store: has the utterances.
        index: of the store.
        rounds: number of runs of each augmentation.
        folder: for recordings of noise and impulse responses, which are made.
    """
    from pipeline.data.audio.flac import decode_flac
    from pipeline.data.loading.augment.codecs import CODECS
    from pipeline.data.loading.augment.composition import AUGMENTATIONS, augmenter, read_steps, sources_of
    from pipeline.data.loading.augment.step import RecordedAugmentation

    waveforms = []
    for row in range(min(len(index), 50)):
        begin = int(index.offset[row])
        data = store.read(index.shards[index.shard[row]], begin, begin + int(index.num_bytes[row]))
        waveforms.append(decode_flac(data))
    noises = make_recordings(folder / "noises", num_samples=240 * SAMPLE_RATE, decay_s=math.inf)
    rooms = make_recordings(folder / "rooms", num_samples=SAMPLE_RATE // 2, decay_s=0.1)
    for name, kind in AUGMENTATIONS.items():
        table = {"name": name} | ({"from": "noises"} if issubclass(kind, RecordedAugmentation) else {})
        steps = read_steps([table])
        library = {source: rooms if source[1] == "rir" else noises for source in sources_of(steps)}
        yield speed_of(name, waveforms, rounds, partial(apply, augmenter(steps, library)))
    for name, codec in CODECS.items():
        for kbits in dict.fromkeys((codec.kbits[0], codec.kbits[-1])):
            change = partial(transcode_at, codec, kbits)
            yield speed_of(f"codec {name}, {kbits:g} kbit/s", waveforms, rounds, change)


def apply(augment: Augmenter | None, waveform: Waveform, seed: int) -> Waveform:
    """Augment a waveform."""
    import numpy as np

    assert augment is not None
    return augment(waveform, "spoof", np.random.default_rng(seed))


def transcode_at(codec: Format, kbits: float, waveform: Waveform, _: int) -> Waveform:
    """Pass a waveform through a codec at a bit rate in kbit/s."""
    from pipeline.data.loading.augment.codecs import pass_through

    return pass_through(waveform, codec, kbits)


def speed_of(
    name: str, waveforms: Sequence[Waveform], rounds: int, change: Callable[[Waveform, int], object]
) -> Measured:
    """Change all waveforms, each with its number as seed, in several rounds; the best one counts."""
    best = math.inf
    for _ in range(rounds):
        used = time.process_time()
        for seed, waveform in enumerate(waveforms):
            change(waveform, seed)
        best = min(best, time.process_time() - used)
    return Measured(name, f"{sum(map(len, waveforms)) / SAMPLE_RATE / best:.0f} × real time a core")


def make_recordings(file: Path, num_samples: int, decay_s: float) -> Recordings:
    """Write a few recordings of noise, which may decay as the response of a room does."""
    import numpy as np

    from pipeline.data.audio.flac import encode_flac, quantise
    from pipeline.data.loading.augment.recordings import Recordings

    rng = np.random.default_rng(0)
    envelope = np.exp(-np.arange(num_samples) / SAMPLE_RATE / decay_s)
    data = [
        encode_flac(quantise((speech_like(rng, num_samples) * envelope).astype(np.float32))) for _ in range(5)
    ]
    file.write_bytes(b"".join(data))
    sizes = np.array(list(map(len, data)))
    return Recordings(
        (str(file),),
        np.zeros(len(data), np.int32),
        np.cumsum(sizes) - sizes,
        sizes.astype(np.int32),
        np.full(len(data), num_samples, np.int32),
    )
