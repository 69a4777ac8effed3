"""Write small corpora of synthetic speech in the layouts of public ones, so that real jobs have work to do.

espeak-ng stands in for bona fide speech; a spoof is the same kind of recording after a process of `artifacts`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from pipeline.errors import InputError
from pipeline.synthetic import artifacts
from pipeline.synthetic.plan import SHARES, Recording, key_tables, plan_recordings
from pipeline.synthetic.recording import RECORDING_RATE, record
from pipeline.synthetic.speech import Synthesizer, Waveform, trim

MARKER = "demo_corpora.json"
"""In the root: the digest of what is written there, and whether it is whole."""

SOURCES = "demo_sources.csv"
"""In the root: the true language, voice and process of every file, which the layouts have no place for."""

# Recordings that share one synthesizer; what it says depends on what it said before, so this is part of the
# recipe and not of the schedule.
_GROUP = 24
# What a process does at the edges of its input is cut off, for bona fide speech alike.
_MARGIN_S = 0.25


def write_demo_corpora(
    root: Path,
    *,
    seed: int = 0,
    minutes: float = 60.0,
    num_workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write about `minutes` of audio under `root`, one folder a corpus; the same arguments write the same files.

    What is there and whole is left alone, what was begun or was made otherwise is written anew.
    `on_progress(num_written, num_planned)` is called as files appear. InputError where `root` already has such
    a folder that the demo did not write, or where espeak-ng is missing.
    """
    plan = plan_recordings(seed, minutes)
    digest = _digest(plan)
    if _is_whole(root, digest, plan):
        if on_progress:
            on_progress(len(plan), len(plan))
        return
    with Synthesizer():
        pass  # says what to install before anything is removed
    _clear(root)
    marker = {"digest": digest, "seed": seed, "minutes": minutes, "corpora": sorted(SHARES)}
    _write_marker(root, marker | {"is_whole": False})
    for path, text in key_tables(plan).items() | {(SOURCES, _sources_table(plan))}:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    num_written = 0
    for num_files in _write_groups(root, plan, num_workers):
        num_written += num_files
        if on_progress:
            on_progress(num_written, len(plan))
    _write_marker(root, marker | {"is_whole": True})


def render(recording: Recording, synthesizer: Synthesizer) -> Waveform:
    """Speak, record and, for a spoof, process one recording: [num_samples] at 16 kHz."""
    generator = np.random.default_rng(recording.seed)
    speech = trim(synthesizer.speak(recording.text, recording.voice))
    lead_s, trail_s = generator.uniform(0.05, 0.4, size=2) + _MARGIN_S
    waveform = record(speech, generator, lead_s=lead_s, trail_s=trail_s)
    if recording.process is not None:
        process = (artifacts.TRAINING | artifacts.EVALUATION)[recording.process]
        waveform = artifacts.apply(process, waveform, generator)
    margin = round(_MARGIN_S * RECORDING_RATE)
    return waveform[margin:-margin]


def _write_groups(root: Path, plan: Sequence[Recording], num_workers: int) -> Iterator[int]:
    """Write all recordings in groups, and yield the size of each group that is done."""
    groups = [plan[start : start + _GROUP] for start in range(0, len(plan), _GROUP)]
    if num_workers == 1:
        for group in groups:
            yield _write_group(root, group)
        return
    # Spawned, because a fork would inherit threads of whatever the caller has started.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        try:
            for done in as_completed([pool.submit(_write_group, root, group) for group in groups]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write_group(root: Path, group: Sequence[Recording]) -> int:
    """Write the recordings that share one synthesizer, and say how many."""
    with Synthesizer(group[0].seed) as synthesizer:
        for recording in group:
            waveform = render(recording, synthesizer)
            _write_audio(root / recording.corpus / recording.path, waveform, recording)
    return len(group)


def _write_audio(path: Path, waveform: Waveform, recording: Recording) -> None:
    """Store `waveform` (16 kHz) at the recording's rate and channels, in the format of the path's suffix."""
    samples = soxr.resample(waveform, RECORDING_RATE, recording.sample_rate)
    if recording.num_channels > 1:
        samples = np.repeat(samples[:, None], recording.num_channels, axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp3":
        # Nearly the highest rate of MP3: a container, not an artifact.
        soundfile.write(path, samples, recording.sample_rate, compression_level=0.2, bitrate_mode="CONSTANT")
    else:
        soundfile.write(path, samples, recording.sample_rate, subtype="PCM_16")


def _digest(plan: Sequence[Recording]) -> str:
    """A digest of the plan and of the code that carries it out."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([asdict(recording) for recording in plan]).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _sources_table(plan: Sequence[Recording]) -> str:
    """CSV text: one row a file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["corpus", "path", "label", "process", "language", "variant", "text"])
    for recording in plan:
        voice = recording.voice
        row = [recording.corpus, recording.path, recording.label, recording.process or "-"]
        writer.writerow([*row, voice.language, voice.variant, recording.text])
    return text.getvalue()


def _is_whole(root: Path, digest: str, plan: Sequence[Recording]) -> bool:
    marker = _read_marker(root)
    return (
        marker.get("digest") == digest
        and marker.get("is_whole") is True
        and all((root / recording.corpus / recording.path).is_file() for recording in plan)
    )


def _clear(root: Path) -> None:
    """Remove what an earlier call wrote; refuse to touch a folder that none of them wrote."""
    for corpus in SHARES:
        folder = root / corpus
        if folder.exists():
            if corpus not in _read_marker(root).get("corpora", []):
                raise InputError(
                    f"{folder} is there already and was not written by the demo: "
                    "choose another folder for the demo, or move that one away"
                )
            shutil.rmtree(folder)


def _read_marker(root: Path) -> dict[str, Any]:
    path = root / MARKER
    if not path.exists():
        return {}
    marker = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(marker, dict), path
    return marker


def _write_marker(root: Path, marker: dict[str, Any]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    beside = root / f".{MARKER}"
    beside.write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    beside.replace(root / MARKER)
