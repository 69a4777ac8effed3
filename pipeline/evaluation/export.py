"""Scores in the formats of other projects, as files for each corpus; no other module spells their names.

EXPORT/                     written by `bonafide export`; CORPUS is `audio` for the scores of a folder of audio files
  CORPUS.csv                antideepfake: ID,Score,Label; csv: every column of the scores
  CORPUS.scores.tsv         asvspoof: filename and cm-score
  CORPUS.key.tsv            asvspoof: filename and cm-label, of the utterances with a label
  CORPUS/scores.txt         arena: id and score
  CORPUS/submission.yaml    arena: the description that belongs to the scores
  CORPUS.rttm               rttm: the regions that are detected as spoof, and the rest, from scores of frames
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from pipeline import tables
from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.evaluation.calibration import stored_calibration
from pipeline.evaluation.complete import find_score_folder, load_columns, load_description
from pipeline.evaluation.frames import iter_frames
from pipeline.evaluation.over_time import threshold_of
from pipeline.metrics import equal_error_rate
from pipeline.metrics.localisation import runs_below
from pipeline.metrics.timeline import smooth
from pipeline.progress import counted
from pipeline.storage import Folder

Format = Literal["antideepfake", "asvspoof", "arena", "csv", "rttm"]

NO_CORPUS = "audio"
"""Stands for the corpus in the names of files if the scores are those of a folder of audio files."""

ANTIDEEPFAKE_LABELS = {"bonafide": 1, "spoof": 0}

WITHOUT_LABEL: Mapping[Format, str] = {
    "antideepfake": "left out",
    "asvspoof": "not in the key",
    "arena": "not part of the EER",
}
"""What becomes of utterances without a label."""

ARENA_VERSION = 4
"""Version of the schema of a submission to the Speech Anti-Spoofing Arena (lab260ru/speech_spoof_bench)."""

RTTM_STEP_S = 1e-4
"""Times in RTTM are multiples of this."""

TODO = "TODO"
"""Begins each entry of a submission that the scores cannot fill in."""


@dataclass(frozen=True)
class Scoring:
    """Complete scores of one system under one window policy."""

    folder: Folder
    """SCORES."""
    identity: Mapping[str, Any]
    """Content of `layout.DESCRIPTION`."""
    rows: Mapping[str, pa.Table]
    """Corpus → its scores."""
    num_rejected: Mapping[str, int]
    """Corpus → utterances without a score; may have corpora that have no scores at all."""


def load_scoring(location: Folder) -> Scoring:
    """Load all columns of a complete SCORES folder.

    Raises:
        InputError: the folder has no scores, is incomplete, or has several SCORES folders.
    """
    folder = find_score_folder(location)
    where = folder.location()
    identity = load_description(folder)
    rows = load_columns(folder, identity)
    if not rows.num_rows:
        raise InputError(f"{where}: no utterance has a score; {folder.location(layout.REJECTS)} says why")
    rejects = tables.read_table(folder, layout.REJECTS, ["corpus"])["corpus"]
    if "corpus" not in rows.column_names:
        return Scoring(folder, identity, {NO_CORPUS: rows}, {NO_CORPUS: len(rejects)})
    corpora = sorted(rows["corpus"].unique().to_pylist())
    return Scoring(
        folder,
        identity,
        {corpus: rows.filter(pc.equal(rows["corpus"], corpus)) for corpus in corpora},
        dict.fromkeys(corpora, 0) | Counter(rejects.to_pylist()),
    )


@dataclass(frozen=True)
class Export:
    """Scores in a format."""

    files: Mapping[str, bytes]
    """File name → content."""
    remarks: Sequence[str]
    """What the user should know about them, one sentence each."""


def export(
    scoring: Scoring, form: Format, params_millions: float | None = None, smoothing_s: float = 0.2
) -> Export:
    """Write the scores in a format.

    Args:
        scoring: the scores.
        form: the format.
        params_millions: parameters of the detector in millions, for the Arena; None if unknown.
        smoothing_s: window over which scores of frames are averaged, for RTTM.

    Raises:
        InputError: the format needs labels and a corpus has none, or scores of frames and there are none, or it cannot
            hold an id.
    """
    files: dict[str, bytes] = {}
    entries: dict[str, None] = {}
    for corpus, rows in scoring.rows.items():
        match form:
            case "csv":
                files[f"{corpus}.csv"] = to_csv(rows)
            case "antideepfake":
                files[f"{corpus}.csv"] = to_antideepfake(corpus, rows)
            case "asvspoof":
                files[f"{corpus}.scores.tsv"], files[f"{corpus}.key.tsv"] = to_asvspoof(corpus, rows)
            case "arena":
                scores = to_arena(corpus, rows)
                submission = to_submission(scoring, corpus, scores, params_millions)
                text = yaml.safe_dump(submission, sort_keys=False, allow_unicode=True, width=1000)
                files[f"{corpus}/scores.txt"], files[f"{corpus}/submission.yaml"] = scores, text.encode()
                entries |= dict.fromkeys(_open_entries(submission))
            case "rttm":
                _check_ids(corpus, rows)
    remarks = [
        f"{corpus}: no file, because none of its {counted(count, 'utterance')} has a score"
        for corpus, count in scoring.num_rejected.items()
        if corpus not in scoring.rows
    ]
    num_unlabelled = sum(rows.num_rows - len(_labels(rows).drop_null()) for rows in scoring.rows.values())
    if num_unlabelled and form in WITHOUT_LABEL:
        remarks.append(f"{counted(num_unlabelled, 'utterance')} without a label: {WITHOUT_LABEL[form]}")
    if form == "rttm":
        calibration = stored_calibration(scoring.identity)
        threshold, origin = threshold_of(calibration)
        regions, num_cut = to_rttm(scoring.folder, threshold, smoothing_s)
        files |= {f"{corpus}.rttm": lines for corpus, lines in regions.items()}
        smoothed = f"averaged over {smoothing_s:g} s" if smoothing_s else "not smoothed"
        remarks.append(f"spoof: frames with scores below {threshold:.4g} ({origin}), {smoothed}")
        chosen = None if calibration is None else calibration.frame_threshold
        if chosen is not None and chosen.smoothing_s != smoothing_s:
            remarks.append(
                f"the threshold was calibrated on frames {chosen.in_words()}: use --smoothing {chosen.smoothing_s:g}"
            )
        if num_cut:
            remarks.append(f"{counted(num_cut, 'utterance')}: only the beginning was scored, and has regions")
    if entries:
        remarks.append(f"complete the entries that begin with {TODO} before you submit: {', '.join(entries)}")
    return Export(files, remarks)


def to_csv(rows: pa.Table) -> bytes:
    """Every column of the scores; a missing value is an empty cell."""
    return _csv(rows.column_names, [_texts(column) for column in rows.columns])


def to_antideepfake(corpus: str, rows: pa.Table) -> bytes:
    """A score CSV of AntiDeepfake: both logits and the label of each labelled utterance."""
    rows = _labelled(corpus, rows)
    logits = zip(_texts(rows["logit_spoof"]), _texts(rows["logit_bonafide"]), strict=True)
    labels = [str(ANTIDEEPFAKE_LABELS[label]) for label in rows["label"].to_pylist()]
    scores = [f"[{spoof}, {bonafide}]" for spoof, bonafide in logits]
    return _csv(("ID", "Score", "Label"), [_texts(rows["id"]), scores, labels])


def to_asvspoof(corpus: str, rows: pa.Table) -> tuple[bytes, bytes]:
    """The score file of ASVspoof 5, and the key with the label of each labelled utterance."""
    _check_ids(corpus, rows)
    labelled = _labelled(corpus, rows)
    return (
        _lines("\t", ("filename", "cm-score"), _texts(rows["id"]), _texts(rows["score"])),
        _lines("\t", ("filename", "cm-label"), _texts(labelled["id"]), _texts(labelled["label"])),
    )


def to_arena(corpus: str, rows: pa.Table) -> bytes:
    """The scores of a submission to the Arena; higher is more bona fide."""
    _check_ids(corpus, rows)
    return _lines(" ", (), _texts(rows["id"]), _texts(rows["score"]))


def to_rttm(folder: Folder, threshold: float, smoothing_s: float) -> tuple[dict[str, bytes], int]:
    """The speech of each utterance as regions without gaps, spoof where frames are below the threshold.

    Args:
        folder: SCORES.
        threshold: for scores of frames.
        smoothing_s: window over which they are averaged.

    Returns:
        Corpus → its lines; and how many utterances were scored at their beginning only, so that the rest has no lines.
    """
    lines: dict[str, list[str]] = {}
    num_cut = 0
    for framed in iter_frames(folder):
        num_cut += framed.num_cut
        corpora = framed.rows["corpus"].to_pylist()
        runs = runs_below(smooth(framed.scores, smoothing_s), threshold)
        # Both edges are rounded, not durations, so that a region ends where the next one starts.
        starts, ends = (
            np.rint(edges / RTTM_STEP_S).astype(np.int64) for edges in (runs.starts_s, runs.ends_s)
        )
        columns = (starts.tolist(), ends.tolist(), runs.is_below.tolist(), runs.utterances.tolist())
        for start, end, is_spoof, utterance in zip(*columns, strict=True):
            label = "spoof" if is_spoof else "bonafide"
            times = f"{start * RTTM_STEP_S:.4f} {(end - start) * RTTM_STEP_S:.4f}"
            name = framed.scores.utterances[utterance]
            lines.setdefault(corpora[utterance] or NO_CORPUS, []).append(
                f"SPEAKER {name} 1 {times} <NA> <NA> {label} <NA> <NA>\n"
            )
    return {corpus: "".join(each).encode() for corpus, each in lines.items()}, num_cut


def to_submission(
    scoring: Scoring, corpus: str, scores: bytes, params_millions: float | None
) -> dict[str, Any]:
    """The description of a submission to the Arena; entries that begin with TODO are for the submitter.

    Args:
        scoring: the scores of all corpora.
        corpus: the corpus of the submission.
        scores: content of the file of scores.
        params_millions: parameters of the detector in millions; None if unknown.
    """
    identity, rows, num_skipped = scoring.identity, scoring.rows[corpus], scoring.num_rejected[corpus]
    system = str(identity["system"])
    description = {
        "name": system,
        "slug": re.sub(r"[^a-z0-9]+", "-", system.lower()).strip("-") or "detector",
        "description": f"{TODO} what the system is and what it was trained on",
        "code": f"{TODO} URL of the code",
        "checkpoint": f"{TODO} URL of the checkpoint",
    }
    return {
        "schema_version": ARENA_VERSION,
        "system": description | ({} if params_millions is None else {"params_millions": params_millions}),
        "dataset": {
            "id": f"{TODO} OWNER/NAME of the data set on Hugging Face that holds {corpus}",
            "revision": f"{TODO} commit of the data set",
            "split": f"{TODO} split of the data set",
        },
        "scores": {
            "eer_percent": _eer_percent(rows),
            "n_trials": rows.num_rows + num_skipped,
            "n_skipped": num_skipped,
        },
        "artifact": {
            "scores_url": f"{TODO} https://huggingface.co/OWNER/NAME/resolve/COMMIT/…/scores.txt",
            "scores_sha256": hashlib.sha256(scores).hexdigest(),
            "bench_version": f"{TODO} speech-spoof-bench==VERSION",
        },
        "reproduction": {},
        "submitter": {
            "hf_username": f"{TODO} user name on Hugging Face",
            "contact": f"{TODO} address for questions",
        },
        "submitted_at": f"{TODO} date as YYYY-MM-DD",
        "notes": f"Scored with bonafide: weights {identity['weights_digest']}, variant {identity['variant']}, "
        f"window {identity['policy']}, precision {identity['precision']}.",
    }


def _open_entries(submission: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of the entries of a submission that the submitter must complete."""
    for name, value in submission.items():
        if isinstance(value, Mapping):
            yield from _open_entries(value, f"{prefix}{name}.")
        elif isinstance(value, str) and value.startswith(TODO):
            yield f"{prefix}{name}"


def _eer_percent(rows: pa.Table) -> float | str:
    labels, scores = _labels(rows).to_numpy(), rows["score"].to_numpy()
    bonafide, spoof = scores[labels == "bonafide"], scores[labels == "spoof"]
    if not (bonafide.size and spoof.size):
        return f"{TODO} EER in percent; the scores do not have labels of both classes"
    return 100 * equal_error_rate(bonafide, spoof, "arena").eer


def _labels(rows: pa.Table) -> pa.ChunkedArray:
    """The label of each utterance; all are null in the scores of a folder of audio files."""
    if "label" in rows.column_names:
        return rows["label"]
    return pa.chunked_array([pa.nulls(rows.num_rows, pa.string())])


def _labelled(corpus: str, rows: pa.Table) -> pa.Table:
    is_labelled = pc.is_valid(_labels(rows))
    if not pc.any(is_labelled).as_py():
        raise InputError(f"{corpus}: the scores have no labels, which this format needs; use --format csv")
    return rows.filter(is_labelled)


def _check_ids(corpus: str, rows: pa.Table) -> None:
    """Refuse ids that a reader of lines would divide."""
    for name in rows["id"].to_pylist():
        if name.split() != [name]:
            raise InputError(
                f"{corpus}: the id {name!r} has white space, which this format cannot hold; use --format csv"
            )


def _texts(column: pa.ChunkedArray) -> list[str]:
    """The values of a column as texts; a float32 has the fewest digits that identify it, a null is empty."""
    if pa.types.is_float32(column.type):
        numbers = column.to_numpy()
        return [
            str(number) if is_valid else ""
            for number, is_valid in zip(numbers, column.is_valid().to_pylist(), strict=True)
        ]
    return ["" if value is None else str(value) for value in column.to_pylist()]


def _csv(header: Sequence[str], columns: Sequence[Iterable[str]]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(zip(*columns, strict=True))
    return file.getvalue().encode()


def _lines(separator: str, header: Sequence[str], *columns: Sequence[str]) -> bytes:
    rows = [header, *zip(*columns, strict=True)] if header else zip(*columns, strict=True)
    return "".join(f"{separator.join(row)}\n" for row in rows).encode()
