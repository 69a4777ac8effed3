"""Write the demo corpora: synthetic speech in the layouts of published corpora.

espeak-ng replaces bona fide speech; a spoof is the same kind of recording after an artifact process.
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

from pipeline.child_process import exit_with_parent, preload
from pipeline.errors import InputError
from pipeline.synthetic.artifacts import EVALUATION_PROCESSES, TRAINING_PROCESSES, apply_process
from pipeline.synthetic.plan import SHARES, Recording, plan_recordings, protocol_files
from pipeline.synthetic.recording import RECORDING_RATE, record
from pipeline.synthetic.speech import Synthesizer, Waveform, trim_silence

MARKER = "demo_corpora.json"
"""File in the root with the digest of the corpora and whether they are complete."""

SOURCES = "demo_sources.csv"
"""CSV in the root with the true language, voice and process of every file, which the layouts cannot express."""

# A synthesizer's output depends on what it spoke before, so changing the size of a group changes the audio.
_RECORDINGS_PER_SYNTHESIZER = 24
# Cut from both ends of every recording, bona fide or not, to remove edge effects of the processes.
_MARGIN_S = 0.25


def write_demo_corpora(
    root: Path,
    *,
    seed: int = 0,
    minutes: float = 60.0,
    dominance: int = 1,
    num_workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write about `minutes` of audio, one folder per corpus; equal arguments write equal files.

    Complete corpora from an earlier call with the same arguments are kept. Incomplete ones, and those from other
    arguments or another version of this package, are replaced.

    Args:
        root: Folder for the corpora.
        seed: Seed of all random choices.
        minutes: Total duration of the audio with a dominance of 1.
        dominance: How many times as many recordings of MLAAD are from one attack as from each other one.
        num_workers: Processes that make audio; the files do not depend on it.
        on_progress: Called with (num_written, num_planned) as files are written.

    Raises:
        InputError: `root` has a corpus folder that the demo did not write, or espeak-ng is not installed.
    """
    plan = plan_recordings(seed, minutes, dominance)
    digest = _digest(plan)
    if _is_complete(root, digest, plan):
        if on_progress:
            on_progress(len(plan), len(plan))
        return
    with Synthesizer():
        pass  # fail before anything is removed if espeak-ng is not installed
    _remove_previous(root)
    marker = {"digest": digest, "seed": seed, "minutes": minutes, "corpora": sorted(SHARES)}
    _write_marker(root, marker | {"is_complete": False})
    for path, text in protocol_files(plan).items() | {(SOURCES, _sources_table(plan))}:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    num_written = 0
    for num_files in _write_groups(root, plan, num_workers):
        num_written += num_files
        if on_progress:
            on_progress(num_written, len(plan))
    _write_marker(root, marker | {"is_complete": True})


def render(recording: Recording, synthesizer: Synthesizer) -> Waveform:
    """Synthesise, record and, for a spoof, process one recording: [num_samples] at 16 kHz."""
    generator = np.random.default_rng(recording.seed)
    speech = trim_silence(synthesizer.speak(recording.text, recording.voice))
    lead_s, trail_s = generator.uniform(0.05, 0.4, size=2) + _MARGIN_S
    waveform = record(speech, generator, lead_s=lead_s, trail_s=trail_s)
    if recording.process is not None:
        process = (TRAINING_PROCESSES | EVALUATION_PROCESSES)[recording.process]
        waveform = apply_process(process, waveform, generator)
    margin = round(_MARGIN_S * RECORDING_RATE)
    return waveform[margin:-margin]


def _write_groups(root: Path, plan: Sequence[Recording], num_workers: int) -> Iterator[int]:
    """Write all recordings in groups and yield the size of each finished group."""
    groups = [
        plan[start : start + _RECORDINGS_PER_SYNTHESIZER]
        for start in range(0, len(plan), _RECORDINGS_PER_SYNTHESIZER)
    ]
    if num_workers == 1:
        for group in groups:
            yield _write_group(root, group)
        return
    # No fork of this process: it would inherit the locks of the caller's threads.
    preload((__name__,))
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=exit_with_parent) as pool:
        try:
            for future in as_completed([pool.submit(_write_group, root, group) for group in groups]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write_group(root: Path, group: Sequence[Recording]) -> int:
    """Write recordings with one synthesizer and return their number."""
    with Synthesizer(group[0].seed) as synthesizer:
        for recording in group:
            waveform = render(recording, synthesizer)
            _write_audio(root / recording.corpus / recording.path, waveform, recording)
    return len(group)


def _write_audio(path: Path, waveform: Waveform, recording: Recording) -> None:
    """Write a waveform (16 kHz) with the rate and channels of a recording, in the format of the suffix of `path`."""
    samples = soxr.resample(waveform, RECORDING_RATE, recording.sample_rate)
    if recording.num_channels > 1:
        samples = np.repeat(samples[:, None], recording.num_channels, axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp3":
        # A bit rate near the maximum of MP3, so that the format adds no audible artifact.
        soundfile.write(path, samples, recording.sample_rate, compression_level=0.2, bitrate_mode="CONSTANT")
    else:
        soundfile.write(path, samples, recording.sample_rate, subtype="PCM_16")


def _digest(plan: Sequence[Recording]) -> str:
    """Hash the plan and the source of this package, so that any change to either replaces existing corpora."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([asdict(recording) for recording in plan]).encode())
    for module in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    return digest.hexdigest()


def _sources_table(plan: Sequence[Recording]) -> str:
    """Format `SOURCES` as CSV text, one row per file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["corpus", "path", "label", "process", "language", "variant", "text"])
    for recording in plan:
        voice = recording.voice
        row = [recording.corpus, recording.path, recording.label, recording.process or "-"]
        writer.writerow([*row, voice.language, voice.variant, recording.text])
    return text.getvalue()


def _is_complete(root: Path, digest: str, plan: Sequence[Recording]) -> bool:
    marker = _read_marker(root)
    return (
        marker.get("digest") == digest
        and marker.get("is_complete") is True
        and all((root / recording.corpus / recording.path).is_file() for recording in plan)
    )


def _remove_previous(root: Path) -> None:
    """Remove the corpora of an earlier call.

    Raises:
        InputError: a corpus folder exists that no earlier call wrote.
    """
    for corpus in SHARES:
        folder = root / corpus
        if folder.exists():
            if corpus not in _read_marker(root).get("corpora", []):
                raise InputError(
                    f"{folder} already exists and was not written by the demo; "
                    "choose another folder for the demo, or move the existing one"
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
    temporary = root / f".{MARKER}"
    temporary.write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    temporary.replace(root / MARKER)
