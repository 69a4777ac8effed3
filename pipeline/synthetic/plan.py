"""Plan the recordings of the demo corpora before any audio is made.

Folders and protocols follow the published corpora, but the contents do not: the manifests of In-the-Wild and
FakeOrReal state English, while the demo's versions contain the `[evaluation]` languages of sentences.toml. `Voice` has
the true language of each recording.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from pipeline.synthetic.artifacts import EVALUATION_PROCESSES, TRAINING_PROCESSES
from pipeline.synthetic.speech import Voice

MEAN_S = 3.2
"""Mean duration of a recording in seconds."""

SHARES = {
    "ASVspoof2019-LA": 0.36,
    "FLEURS": 0.16,
    "MLAAD_v5": 0.16,
    "In-the-Wild": 0.18,
    "FakeOrReal": 0.14,
}
"""Corpus folder → share of all recordings."""

DOMINANT = "griffin_lim"
"""The process that dominates the spoofs of MLAAD, as two vocoded corpora do in the training set of AntiDeepfake."""

# Training and evaluation share no voice.
_TRAINING_VARIANTS = ("m1", "m2", "m3", "m4", "f1", "f2", "f3")
_EVALUATION_VARIANTS = ("m5", "m6", "m7", "m8", "f4", "f5")
_ENGLISH_ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029")
_FLEURS_FOLDERS = {
    "cs": "cs_cz",
    "de": "de_de",
    "en": "en_us",
    "es": "es_419",
    "fi": "fi_fi",
    "hi": "hi_in",
    "id": "id_id",
    "it": "it_it",
    "nl": "nl_nl",
    "pl": "pl_pl",
    "pt": "pt_br",
    "ru": "ru_ru",
    "sw": "sw_ke",
    "tr": "tr_tr",
}
_ATTACKS = {name: f"A{number:02d}" for number, name in enumerate(TRAINING_PROCESSES, start=1)}
_ASVSPOOF_SETS = (("train", "T", "trn", 0.64), ("dev", "D", "trl", 0.24), ("eval", "E", "trl", 0.12))


@dataclass(frozen=True, slots=True)
class Recording:
    """One file of a demo corpus: voice, text, artifact process and format."""

    corpus: str
    """Folder of the corpus."""
    path: str
    """POSIX path relative to the corpus folder."""
    voice: Voice
    text: str
    process: str | None
    """Name in `TRAINING_PROCESSES` or `EVALUATION_PROCESSES`; None for bona fide speech."""
    speaker: str
    sample_rate: int
    """Sample rate of the file, Hz."""
    num_channels: int
    seed: int
    """Determines the simulated recording and the artifact process."""

    @property
    def label(self) -> str:
        return "bonafide" if self.process is None else "spoof"


@dataclass(frozen=True, slots=True)
class _Script:
    """The fields of a recording that do not depend on its file."""

    voice: Voice
    text: str
    process: str | None
    speaker: str
    seed: int


@cache
def load_sentences(part: str) -> dict[str, tuple[str, ...]]:
    """Load the sentences by language; `part` is "training" or "evaluation"."""
    table = tomllib.loads(Path(__file__).with_name("sentences.toml").read_text(encoding="utf-8"))
    return {language: tuple(sentences) for language, sentences in table[part].items()}


def plan_recordings(seed: int, minutes: float, dominance: int = 1) -> list[Recording]:
    """Plan the recordings of all corpora; equal arguments give equal plans.

    Args:
        seed: Seed of all random choices.
        minutes: About the total duration of the audio with a dominance of 1.
        dominance: How many times as many recordings of MLAAD are from `DOMINANT` as from each other process.
    """
    num_recordings = minutes * 60 / MEAN_S
    planners: dict[str, Callable[[int, np.random.Generator], Iterator[Recording]]] = {
        "ASVspoof2019-LA": _plan_asvspoof2019_la,
        "FLEURS": _plan_fleurs,
        "MLAAD_v5": partial(_plan_mlaad, dominance),
        "In-the-Wild": _plan_in_the_wild,
        "FakeOrReal": _plan_fake_or_real,
    }
    plan: list[Recording] = []
    for number, (corpus, planner) in enumerate(planners.items()):
        generator = np.random.default_rng([seed, number])
        plan += planner(max(10, round(SHARES[corpus] * num_recordings)), generator)
    return plan


def protocol_files(plan: Sequence[Recording]) -> dict[str, str]:
    """Make the protocol files of the corpora: path relative to the root → text."""
    tables: dict[str, list[str]] = {}
    for recording in plan:
        stem = Path(recording.path).stem
        if recording.corpus == "ASVspoof2019-LA":
            name, _, kind, _ = next(part for part in _ASVSPOOF_SETS if f"LA_{part[1]}_" in stem)
            table = f"LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.{name}.{kind}.txt"
            attack = _ATTACKS[recording.process] if recording.process else "-"
            row = f"{recording.speaker} {stem} - {attack} {recording.label}"
            tables.setdefault(f"{recording.corpus}/{table}", []).append(row)
        elif recording.corpus == "In-the-Wild":
            label = "bona-fide" if recording.process is None else "spoof"
            rows = tables.setdefault(
                f"{recording.corpus}/release_in_the_wild/meta.csv", ["file,speaker,label"]
            )
            rows.append(f"{stem}.wav,{recording.speaker},{label}")
    return {path: "\n".join(rows) + "\n" for path, rows in tables.items()}


def _plan_asvspoof2019_la(num_recordings: int, generator: np.random.Generator) -> Iterator[Recording]:
    """English; speakers of train, dev and eval are disjoint; half of each set is bona fide, half A01–A05."""
    speaker = 0
    for name, letter, _, share in _ASVSPOOF_SETS:
        num_files = max(4, round(share * num_recordings))
        voices = {}
        for _ in range(max(4, num_files // 12)):
            speaker += 1
            accent = str(generator.choice(_ENGLISH_ACCENTS))
            voices[f"LA_{speaker:04d}"] = _draw_voice(accent, _TRAINING_VARIANTS, generator)
        processes = _draw_processes(num_files, tuple(TRAINING_PROCESSES), generator)
        numbers = generator.choice(9_000_000, num_files, replace=False) + 1_000_000
        for number, process in zip(numbers, processes, strict=True):
            speaker_name = str(generator.choice(list(voices)))
            script = _script(voices[speaker_name], "training", process, speaker_name, generator)
            path = f"LA/ASVspoof2019_LA_{name}/flac/LA_{letter}_{number}.flac"
            yield _recording("ASVspoof2019-LA", path, script, 16_000)


def _plan_fleurs(num_recordings: int, generator: np.random.Generator) -> Iterator[Recording]:
    """Bona fide only, in all training languages."""
    for language in np.resize(list(load_sentences("training")), num_recordings):
        script = _script_for_new_voice(str(language), "training", None, generator)
        folder = f"fleurs/data/{_FLEURS_FOLDERS[str(language)]}/audio/train"
        yield _recording(
            "FLEURS", f"{folder}/{generator.integers(10**18, 9 * 10**18)}.wav", script, _draw_rate(generator)
        )


def _plan_mlaad(dominance: int, num_recordings: int, generator: np.random.Generator) -> Iterator[Recording]:
    """Spoofs only, in the same languages as FLEURS, so that language does not predict the label."""
    evenly = np.resize(list(TRAINING_PROCESSES), num_recordings)
    more = [DOMINANT] * ((dominance - 1) * int(np.count_nonzero(evenly == DOMINANT)))
    processes = generator.permuted([*evenly, *more])
    languages = np.resize(list(load_sentences("training")), len(processes))
    for number, (language, process) in enumerate(zip(languages, processes, strict=True)):
        script = _script_for_new_voice(str(language), "training", str(process), generator)
        path = f"fake/{language}/{process}/demo_{number:05d}.wav"
        yield _recording("MLAAD_v5", path, script, _draw_rate(generator))


def _plan_in_the_wild(num_recordings: int, generator: np.random.Generator) -> Iterator[Recording]:
    """Half bona fide, with the languages, voices and processes of evaluation."""
    languages = generator.permuted(np.resize(list(load_sentences("evaluation")), num_recordings))
    processes = _draw_processes(num_recordings, tuple(EVALUATION_PROCESSES), generator)
    for number, (language, process) in enumerate(zip(languages, processes, strict=True)):
        script = _script_for_new_voice(str(language), "evaluation", process, generator)
        yield _recording("In-the-Wild", f"release_in_the_wild/{number}.wav", script, _draw_rate(generator))


def _plan_fake_or_real(num_recordings: int, generator: np.random.Generator) -> Iterator[Recording]:
    """Like In-the-Wild, but stored as stereo WAV or as mono MP3 of high bit rate."""
    languages = generator.permuted(np.resize(list(load_sentences("evaluation")), num_recordings))
    processes = _draw_processes(num_recordings, tuple(EVALUATION_PROCESSES), generator)
    for number, (language, process) in enumerate(zip(languages, processes, strict=True), start=1):
        script = _script_for_new_voice(str(language), "evaluation", process, generator)
        subset = ("training", "testing", "validation")[number % 3]
        suffix, num_channels = (("wav", 2), ("mp3", 1))[number % 2]
        path = f"for-original/{subset}/{'real' if process is None else 'fake'}/file{number}.{suffix}"
        yield _recording("FakeOrReal", path, script, 44_100, num_channels)


def _draw_processes(
    num_recordings: int, processes: Sequence[str], generator: np.random.Generator
) -> list[str | None]:
    """Draw None (bona fide) for half of the recordings and the processes evenly for the rest, in random order."""
    num_spoofs = num_recordings // 2
    drawn = [*np.resize(processes, num_spoofs), *[""] * (num_recordings - num_spoofs)]
    return [str(name) or None for name in generator.permuted(drawn)]


def _script_for_new_voice(
    language: str, part: str, process: str | None, generator: np.random.Generator
) -> _Script:
    """Draw a voice and make a script for it."""
    variants = _TRAINING_VARIANTS if part == "training" else _EVALUATION_VARIANTS
    voice = _draw_voice(language, variants, generator)
    return _script(voice, part, process, f"{language} {voice.variant} {voice.pitch}", generator)


def _script(
    voice: Voice, part: str, process: str | None, speaker: str, generator: np.random.Generator
) -> _Script:
    """Draw one or two sentences in the language of the voice."""
    sentences = load_sentences(part)[voice.language.partition("-")[0]]
    chosen = generator.choice(len(sentences), size=1 + int(generator.random() < 0.3), replace=False)
    text = " ".join(sentences[index] for index in chosen)
    number, hour, minute = generator.integers(2, 400), generator.integers(1, 13), generator.integers(10, 60)
    text = text.replace("{number}", str(number)).replace("{time}", f"{hour}:{minute}")
    return _Script(voice, text, process, speaker, int(generator.integers(2**31)))


def _draw_voice(language: str, variants: Sequence[str], generator: np.random.Generator) -> Voice:
    return Voice(
        language,
        variant=str(generator.choice(variants)),
        pitch=int(generator.integers(20, 80)),
        pitch_range=int(generator.integers(25, 80)),
        words_per_minute=int(generator.integers(140, 210)),
    )


def _draw_rate(generator: np.random.Generator) -> int:
    return int(generator.choice([16_000, 22_050, 24_000, 44_100]))


def _recording(corpus: str, path: str, script: _Script, sample_rate: int, num_channels: int = 1) -> Recording:
    return Recording(
        corpus,
        path,
        script.voice,
        script.text,
        script.process,
        script.speaker,
        sample_rate,
        num_channels,
        script.seed,
    )
