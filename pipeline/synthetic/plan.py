"""Decide, before anything is spoken, which recordings the demo's corpora hold and where they lie.

The folders and key tables are those of the public corpora. What lies in them is not: ASVspoof2019-LA and the
evaluation corpora are English by their manifests, and in the demo In-the-Wild and FakeOrReal hold the languages
of `[evaluation]` in sentences.toml. Each recording's true language is in its `Voice`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from pipeline.synthetic import artifacts
from pipeline.synthetic.speech import Voice

MEAN_S = 3.2
"""Seconds of a recording, on average."""

SHARES = {
    "ASVspoof2019-LA": 0.36,
    "FLEURS": 0.16,
    "MLAAD_v5": 0.16,
    "In-the-Wild": 0.18,
    "FakeOrReal": 0.14,
}
"""Corpus folder → its share of the recordings."""

# No voice of training speaks in an evaluation.
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
_ATTACKS = {name: f"A{number:02d}" for number, name in enumerate(artifacts.TRAINING, start=1)}
_ASVSPOOF_SETS = (("train", "T", "trn", 0.64), ("dev", "D", "trl", 0.24), ("eval", "E", "trl", 0.12))


@dataclass(frozen=True, slots=True)
class Recording:
    """One file to make: who says what, what happens to it, and how it is stored."""

    corpus: str
    """Folder of the corpus."""
    path: str
    """Relative to the corpus folder, POSIX."""
    voice: Voice
    text: str
    process: str | None
    """Name in `artifacts.TRAINING` or `artifacts.EVALUATION`; None: bona fide."""
    speaker: str
    sample_rate: int
    num_channels: int
    seed: int

    @property
    def label(self) -> str:
        return "bonafide" if self.process is None else "spoof"


@dataclass(frozen=True, slots=True)
class _Script:
    """What is to be said before it has a place: everything of a recording but its file."""

    voice: Voice
    text: str
    process: str | None
    speaker: str
    seed: int


@cache
def load_sentences(part: str) -> dict[str, tuple[str, ...]]:
    """Language → sentences, of `part` "training" or "evaluation"."""
    table = tomllib.loads(Path(__file__).with_name("sentences.toml").read_text(encoding="utf-8"))
    return {language: tuple(sentences) for language, sentences in table[part].items()}


def plan_recordings(seed: int, minutes: float) -> list[Recording]:
    """Every recording of the demo's corpora, about `minutes` of audio in all. Pure: same input, same plan."""
    num_recordings = minutes * 60 / MEAN_S
    planners = {
        "ASVspoof2019-LA": _plan_asvspoof2019_la,
        "FLEURS": _plan_fleurs,
        "MLAAD_v5": _plan_mlaad,
        "In-the-Wild": _plan_in_the_wild,
        "FakeOrReal": _plan_fake_or_real,
    }
    plan: list[Recording] = []
    for number, (corpus, planner) in enumerate(planners.items()):
        generator = np.random.default_rng([seed, number])
        plan += planner(max(10, round(SHARES[corpus] * num_recordings)), generator)
    return plan


def key_tables(plan: Sequence[Recording]) -> dict[str, str]:
    """Path relative to the root → text, of every protocol and metadata file the corpora come with."""
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
    """English; the speakers of train, dev and eval are disjoint; half of each set bona fide, half A01–A04."""
    speaker = 0
    for name, letter, _, share in _ASVSPOOF_SETS:
        num_files = max(4, round(share * num_recordings))
        voices = {}
        for _ in range(max(4, num_files // 12)):
            speaker += 1
            accent = str(generator.choice(_ENGLISH_ACCENTS))
            voices[f"LA_{speaker:04d}"] = _draw_voice(accent, _TRAINING_VARIANTS, generator)
        processes = _halves(num_files, tuple(artifacts.TRAINING), generator)
        numbers = generator.choice(9_000_000, num_files, replace=False) + 1_000_000
        for number, process in zip(numbers, processes, strict=True):
            name_of_speaker = str(generator.choice(list(voices)))
            script = _script(voices[name_of_speaker], "training", process, name_of_speaker, generator)
            path = f"LA/ASVspoof2019_LA_{name}/flac/LA_{letter}_{number}.flac"
            yield _file("ASVspoof2019-LA", path, script, 16_000)


def _plan_fleurs(num_recordings: int, generator: np.random.Generator) -> Iterator[Recording]:
    """Bona fide only, in all languages of training."""
    for language in np.resize(list(load_sentences("training")), num_recordings):
        script = _anybody(str(language), "training", None, generator)
        folder = f"fleurs/data/{_FLEURS_FOLDERS[str(language)]}/audio/train"
        yield _file(
            "FLEURS", f"{folder}/{generator.integers(10**18, 9 * 10**18)}.wav", script, _draw_rate(generator)
        )


def _plan_mlaad(num_recordings: int, generator: np.random.Generator) -> Iterator[Recording]:
    """Spoofs only, in the same languages: language does not tell the label."""
    processes = generator.permuted(np.resize(list(artifacts.TRAINING), num_recordings))
    languages = np.resize(list(load_sentences("training")), num_recordings)
    for number, (language, process) in enumerate(zip(languages, processes, strict=True)):
        script = _anybody(str(language), "training", str(process), generator)
        path = f"fake/{language}/{process}/demo_{number:05d}.wav"
        yield _file("MLAAD_v5", path, script, _draw_rate(generator))


def _plan_in_the_wild(num_recordings: int, generator: np.random.Generator) -> Iterator[Recording]:
    """Languages, voices and processes of evaluation."""
    languages = generator.permuted(np.resize(list(load_sentences("evaluation")), num_recordings))
    processes = _halves(num_recordings, tuple(artifacts.EVALUATION), generator)
    for number, (language, process) in enumerate(zip(languages, processes, strict=True)):
        script = _anybody(str(language), "evaluation", process, generator)
        yield _file("In-the-Wild", f"release_in_the_wild/{number}.wav", script, _draw_rate(generator))


def _plan_fake_or_real(num_recordings: int, generator: np.random.Generator) -> Iterator[Recording]:
    """Languages, voices and processes of evaluation, as stereo WAV or mono MP3 of high rate."""
    languages = generator.permuted(np.resize(list(load_sentences("evaluation")), num_recordings))
    processes = _halves(num_recordings, tuple(artifacts.EVALUATION), generator)
    for number, (language, process) in enumerate(zip(languages, processes, strict=True), start=1):
        script = _anybody(str(language), "evaluation", process, generator)
        subset = ("training", "testing", "validation")[number % 3]
        suffix, num_channels = (("wav", 2), ("mp3", 1))[number % 2]
        path = f"for-original/{subset}/{'real' if process is None else 'fake'}/file{number}.{suffix}"
        yield _file("FakeOrReal", path, script, 44_100, num_channels)


def _halves(
    num_recordings: int, processes: Sequence[str], generator: np.random.Generator
) -> list[str | None]:
    """One half bona fide (None), the other shared evenly by `processes`, in random order."""
    num_spoofs = num_recordings // 2
    drawn = [*np.resize(processes, num_spoofs), *[""] * (num_recordings - num_spoofs)]
    return [str(name) or None for name in generator.permuted(drawn)]


def _anybody(language: str, part: str, process: str | None, generator: np.random.Generator) -> _Script:
    """A script for a voice that is drawn for it alone."""
    variants = _TRAINING_VARIANTS if part == "training" else _EVALUATION_VARIANTS
    voice = _draw_voice(language, variants, generator)
    return _script(voice, part, process, f"{language} {voice.variant} {voice.pitch}", generator)


def _script(
    voice: Voice, part: str, process: str | None, speaker: str, generator: np.random.Generator
) -> _Script:
    """Give `voice` one or two sentences of its language to say."""
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


def _file(corpus: str, path: str, script: _Script, sample_rate: int, num_channels: int = 1) -> Recording:
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
