"""Write small corpora of noisy tones in the layouts of public corpora."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile


def write_asvspoof2019_la(data: Path, num_train: int = 40, num_dev: int = 12, seconds: float = 2.0) -> None:
    """Write `ASVspoof2019-LA`; every third clip is bona fide."""
    rng = np.random.default_rng(2019)
    root = data / "ASVspoof2019-LA" / "LA"
    for split, kind, count in (("train", "trn", num_train), ("dev", "trl", num_dev), ("eval", "trl", 4)):
        lines = []
        for number in range(count):
            name, is_spoof = f"LA_{split[0].upper()}_{1000000 + number}", number % 3 > 0
            path = root / f"ASVspoof2019_LA_{split}" / "flac" / f"{name}.flac"
            _write(path, rng, rng.uniform(0.5, 1.5) * seconds, 16_000)
            label = f"A{1 + number % 6:02d} spoof" if is_spoof else "- bonafide"
            lines.append(f"LA_{number % 5:04d} {name} - {label}\n")
        protocol = root / "ASVspoof2019_LA_cm_protocols" / f"ASVspoof2019.LA.cm.{split}.{kind}.txt"
        protocol.parent.mkdir(parents=True, exist_ok=True)
        protocol.write_text("".join(lines))


def write_in_the_wild(data: Path, count: int = 30, seconds: float = 2.0, first: int = 0) -> None:
    """Write `In-the-Wild`; every second clip is bona fide. A second call with another `first` adds clips."""
    rng = np.random.default_rng(first + 1)
    root = data / "In-the-Wild" / "release_in_the_wild"
    root.mkdir(parents=True, exist_ok=True)
    table = root / "meta.csv"
    lines = table.read_text().splitlines() if table.exists() else ["file,speaker,label"]
    for number in range(first, first + count):
        _write(root / f"{number}.wav", rng, rng.uniform(0.5, 1.5) * seconds, 22_050)
        lines.append(f"{number}.wav,Somebody {number % 4},{'bona-fide' if number % 2 else 'spoof'}")
    table.write_text("\n".join(lines) + "\n")


def write_partialspoof(data: Path, count: int = 4, sets: Sequence[str] = ("dev",)) -> None:
    """Write sets of `PartialSpoof` (train, dev or eval), of clips of half a second whose second half is spoofed."""
    rng = np.random.default_rng(5766198)
    root = data / "PartialSpoof" / "database"
    for name in sets:
        protocol = root / f"protocols/PartialSpoof_LA_cm_protocols/PartialSpoof.LA.cm.{name}.trl.txt"
        for folder in (protocol.parent, root / "vad" / name):
            folder.mkdir(parents=True, exist_ok=True)
        clips = [f"CON_{name[0].upper()}_{number:07d}" for number in range(count)]
        for clip in clips:
            _write(root / name / "con_wav" / f"{clip}.wav", rng, 0.5, 16_000)
            (root / "vad" / name / f"{clip}.vad").write_text("0.0 0.25 1\n0.25 0.5 0\n")
        protocol.write_text("".join(f"LA_0069 {clip} - CON spoof\n" for clip in clips))


def _write(path: Path, rng: np.random.Generator, seconds: float, sample_rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(int(seconds * sample_rate)) / sample_rate
    tone = 0.2 * np.sin(2 * np.pi * rng.uniform(100, 3000) * time_s)
    soundfile.write(path, tone + 0.02 * rng.standard_normal(time_s.size), sample_rate)
