"""Scores in the formats of other projects can be read as those projects read them."""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.evaluation.export import Format, Scoring, export, load_scoring
from pipeline.evaluation.frames import load_frames
from pipeline.metrics import equal_error_rate
from pipeline.metrics.timeline import smooth
from pipeline.storage import Folder
from pipeline.tables import read_table, to_parquet
from tests.evaluation.simulated import write_spliced

ODD_IDS = ["a,b", 'say "c"', "two\nlines", "d", "e", "f"]
PLAIN_IDS = [f"LA_E_{number}" for number in range(6)]
LABELS = ["bonafide", "spoof", "spoof", "bonafide", "spoof", None]
IDENTITY = {
    "system": "Größe (step 7) · whole",
    "weights_digest": "0123abcd",
    "variant": "tiny",
    "policy": "whole",
}


def write_scores(
    folder: Path, ids: Sequence[str], corpora: Sequence[str] = ("one", "two"), **identity: str
) -> Folder:
    """Write a complete SCORES folder with the same utterances in each corpus; one file per corpus."""
    out, rng = Folder(str(folder)), np.random.default_rng(3)
    for number, corpus in enumerate(corpora):
        logits = rng.normal(size=(2, len(ids))).astype(np.float32)
        columns: Mapping[str, Any] = {
            "uid": [f"{corpus}{position}" for position in range(len(ids))],
            "id": ids,
            "path": [f"{name}.wav" for name in ids],
            "corpus": [corpus] * len(ids),
            "label": LABELS[: len(ids)],
            "seconds": pa.array([0.1] * len(ids), pa.float32()),
            "logit_spoof": logits[0],
            "logit_bonafide": logits[1],
            "score": logits[1] - logits[0],
        }
        schema = layout.FILE_COLUMNS if "audio" in identity else layout.UTTERANCE_COLUMNS
        known = [name for name in schema.names if name in columns]
        table = pa.table({name: columns[name] for name in known})
        out.commit(layout.part_name(number), to_parquet(table))
    rejects = [{"path": "r", "reason": "too_long_for_memory", "detail": "d", "corpus": corpora[0]}]
    out.commit(layout.REJECTS, to_parquet(pa.Table.from_pylist(rejects, layout.REJECT_COLUMNS)))
    description = IDENTITY | {"precision": "fp32", "num_utterances": len(ids) * len(corpora)} | identity
    out.commit(layout.DESCRIPTION, json.dumps(description).encode())
    return out


@pytest.fixture
def plain(tmp_path: Path) -> Scoring:
    """Scores of two corpora whose ids have no white space."""
    return load_scoring(write_scores(tmp_path / "plain", PLAIN_IDS))


@pytest.fixture
def odd(tmp_path: Path) -> Scoring:
    """Scores whose ids have commas, quotes and line ends."""
    return load_scoring(write_scores(tmp_path / "odd", ODD_IDS))


def same_float32(texts: Sequence[str], column: pa.ChunkedArray) -> bool:
    return bool(np.array_equal(np.array([np.float32(text) for text in texts]), column.to_numpy()))


def test_a_csv_has_every_column_and_the_digits_of_each_float(odd: Scoring) -> None:
    exported = export(odd, "csv")
    assert (sorted(exported.files), exported.remarks) == (["one.csv", "two.csv"], [])
    text = exported.files["two.csv"].decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert list(rows[0]) == layout.UTTERANCE_COLUMNS.names
    assert [row["id"] for row in rows] == ODD_IDS
    assert {row["seconds"] for row in rows} == {"0.1"}
    assert {row["codec"] for row in rows} == {""}
    assert rows[5]["label"] == ""
    for name in ("logit_spoof", "logit_bonafide", "score"):
        assert same_float32([row[name] for row in rows], odd.rows["two"][name])


def test_an_antideepfake_csv_has_both_logits_and_a_numeric_label(odd: Scoring) -> None:
    exported = export(odd, "antideepfake")
    assert exported.remarks == ["2 utterances without a label: left out"]
    text = exported.files["one.csv"].decode()
    assert text.startswith("ID,Score,Label\n")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(row["ID"], row["Label"]) for row in rows] == list(zip(ODD_IDS[:5], "10010", strict=True))
    spoof, bonafide = zip(*(ast.literal_eval(row["Score"]) for row in rows), strict=True)
    assert same_float32(spoof, odd.rows["one"]["logit_spoof"].slice(0, 5))
    assert same_float32(bonafide, odd.rows["one"]["logit_bonafide"].slice(0, 5))


def test_asvspoof_has_a_score_file_and_a_key(plain: Scoring) -> None:
    exported = export(plain, "asvspoof")
    assert sorted(exported.files) == ["one.key.tsv", "one.scores.tsv", "two.key.tsv", "two.scores.tsv"]
    assert exported.remarks == ["2 utterances without a label: not in the key"]
    scores = [line.split("\t") for line in exported.files["one.scores.tsv"].decode().splitlines()]
    key = [line.split("\t") for line in exported.files["one.key.tsv"].decode().splitlines()]
    assert scores[0] == ["filename", "cm-score"]
    assert [name for name, _ in scores[1:]] == PLAIN_IDS
    assert same_float32([score for _, score in scores[1:]], plain.rows["one"]["score"])
    assert key == [["filename", "cm-label"], *([name, LABELS[i]] for i, name in enumerate(PLAIN_IDS[:5]))]


def test_an_arena_submission_says_what_is_known_and_marks_the_rest(plain: Scoring) -> None:
    exported = export(plain, "arena", 94.4)
    scores = exported.files["one/scores.txt"]
    read = {name: float(score) for name, score in (line.split() for line in scores.decode().splitlines())}
    assert list(read) == PLAIN_IDS
    submission = yaml.safe_load(exported.files["one/submission.yaml"])
    assert submission["schema_version"] == 4
    assert submission["system"]["name"] == IDENTITY["system"]
    assert re.fullmatch("[a-z0-9][a-z0-9-]*", submission["system"]["slug"])
    assert submission["system"]["params_millions"] == 94.4
    assert submission["artifact"]["scores_sha256"] == hashlib.sha256(scores).hexdigest()
    assert (submission["scores"]["n_trials"], submission["scores"]["n_skipped"]) == (7, 1)
    bonafide, spoof = (
        [score for score, known in zip(read.values(), LABELS, strict=True) if known == label]
        for label in ("bonafide", "spoof")
    )
    eer = equal_error_rate(bonafide, spoof, definition="arena").eer
    assert submission["scores"]["eer_percent"] == pytest.approx(100 * eer, abs=1e-9)
    assert submission["reproduction"] == {}
    assert "0123abcd" in submission["notes"]
    (unlabelled, todo) = exported.remarks
    assert unlabelled == "2 utterances without a label: not part of the EER"
    assert todo.startswith(
        "complete the entries that begin with TODO before you submit: system.description, "
    )
    marked = [name for name in todo.partition("submit: ")[2].split(", ") if "." in name]
    assert all(
        submission[section][name].startswith("TODO") for section, name in (e.split(".") for e in marked)
    )
    assert {"dataset.id", "artifact.scores_url", "submitter.contact"} <= set(marked)
    other = yaml.safe_load(exported.files["two/submission.yaml"])
    assert (other["scores"]["n_trials"], other["scores"]["n_skipped"]) == (6, 0)


@pytest.mark.parametrize("form", ["asvspoof", "arena"])
def test_an_id_that_a_line_cannot_hold_is_named(form: Format, odd: Scoring) -> None:
    with pytest.raises(InputError, match=r"one: the id 'say \"c\"' has white space, .* use --format csv"):
        export(odd, form)


def test_scores_of_audio_files_have_no_labels(tmp_path: Path) -> None:
    scoring = load_scoring(write_scores(tmp_path / "calls", PLAIN_IDS, ["calls"], audio="/calls"))
    exported = export(scoring, "csv")
    (text,) = exported.files.values()
    assert text.decode().splitlines()[0] == ",".join(layout.FILE_COLUMNS.names)
    assert list(exported.files) == ["audio.csv"]
    submission = yaml.safe_load(export(scoring, "arena").files["audio/submission.yaml"])
    assert submission["scores"]["eer_percent"].startswith("TODO")
    assert "params_millions" not in submission["system"]
    for form in ("antideepfake", "asvspoof"):
        with pytest.raises(InputError, match="audio: the scores have no labels"):
            export(scoring, form)


def test_only_complete_scores_of_one_policy_are_exported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no scores here"):
        load_scoring(Folder(str(tmp_path / "nowhere")))
    several = tmp_path / "several"
    for policy in ("whole", "window:4:mean"):
        write_scores(several / layout.policy_folder(policy), PLAIN_IDS)
        Folder(str(several)).commit(layout.policy_marker(policy), b"")
    with pytest.raises(InputError, match=r"several window policies; give one of .*/whole, .*/window-4-mean$"):
        load_scoring(Folder(str(several)))
    part = several / "whole" / layout.part_name(1)
    part.unlink()
    with pytest.raises(InputError, match=r"states 12 utterances, the Parquet files have 6"):
        load_scoring(Folder(str(several / "whole")))


def test_a_corpus_without_any_score_is_named(tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "plain", PLAIN_IDS)
    reject = {"path": "r", "reason": "kills_scorer", "detail": "d", "corpus": "three"}
    rejects = pa.Table.from_pylist([reject, reject], layout.REJECT_COLUMNS)
    folder.commit(layout.REJECTS, to_parquet(rejects))
    exported = export(load_scoring(folder), "csv")
    assert sorted(exported.files) == ["one.csv", "two.csv"]
    assert exported.remarks == ["three: no file, because none of its 2 utterances has a score"]


def read_rttm(lines: bytes) -> dict[str, list[tuple[float, float, str]]]:
    """Id → (start, end, label) of its regions."""
    regions: dict[str, list[tuple[float, float, str]]] = {}
    for line in lines.decode().splitlines():
        kind, name, channel, start, duration, one, two, label, three, four = line.split()
        assert (kind, channel, one, two, three, four) == ("SPEAKER", "1", "<NA>", "<NA>", "<NA>", "<NA>")
        regions.setdefault(name, []).append((float(start), float(start) + float(duration), label))
    return regions


def test_rttm_covers_each_utterance_without_gaps_and_marks_the_frames_below_the_threshold(tmp_path: Path):
    folder = write_spliced(tmp_path / "spliced", noise=2.0)
    exported = export(load_scoring(folder), "rttm", smoothing_s=0.1)
    assert sorted(exported.files) == ["alpha.rttm", "beta.rttm"]
    assert exported.remarks == ["spoof: frames with scores below 0 (not calibrated), averaged over 0.1 s"]
    regions = read_rttm(exported.files["alpha.rttm"]) | read_rttm(exported.files["beta.rttm"])
    framed = load_frames(folder)
    frames = smooth(framed.scores, 0.1)
    assert sorted(regions) == sorted(frames.utterances)
    for name, duration_s, begin, end in zip(
        frames.utterances, frames.durations_s, frames.offsets[:-1], frames.offsets[1:], strict=True
    ):
        starts, ends, labels = zip(*regions[name], strict=True)
        assert starts[0] == 0
        assert ends[-1] == pytest.approx(duration_s, abs=1e-4)
        assert starts[1:] == pytest.approx(ends[:-1], abs=1e-9)
        assert set(labels) <= {"bonafide", "spoof"}
        assert all(one != other for one, other in itertools.pairwise(labels))
        middles = (np.arange(end - begin) + 0.5) * 0.02
        is_spoof = np.array(labels)[np.searchsorted(starts, middles, side="right") - 1] == "spoof"
        assert np.array_equal(is_spoof, frames.scores[begin:end] < 0)


def test_rttm_takes_the_threshold_of_the_calibration(tmp_path: Path):
    record = {"scale": 2.0, "offset": 1.0, "prior": 0.5, "weights_digest": "0123abcd", "policy": "whole"}
    record |= {"precision": "fp32", "system": "tiny", "snapshot": "", "corpora": [], "scores_digest": ""}
    record |= {"num_bonafide": 1, "num_spoof": 1}
    chosen = {"llr": 21.0, "false_alarm": None, "is_guaranteed": False}
    folder = write_spliced(tmp_path / "strict", noise=0.5, calibration=record | {"threshold": chosen})
    exported = export(load_scoring(folder), "rttm", smoothing_s=0.0)
    assert exported.remarks == ["spoof: frames with scores below 10 (calibrated on utterances), not smoothed"]
    labels = {label for each in read_rttm(exported.files["alpha.rttm"]).values() for _, _, label in each}
    assert labels == {"spoof"}

    frames = {"score": -10.0, "range_eer": 0.1, "smoothing_s": 0.2, "non_speech": "excluded"}
    frames |= {"num_utterances": 1, "bonafide_seconds": 1.0, "spoof_seconds": 1.0}
    record |= {"threshold": chosen, "frame_threshold": frames}
    scoring = load_scoring(write_spliced(tmp_path / "lenient", noise=0.5, calibration=record))
    exported = export(scoring, "rttm", smoothing_s=0.0)
    assert exported.remarks == [
        "spoof: frames with scores below -10 (calibrated on frames), not smoothed",
        "the threshold was calibrated on frames averaged over 0.2 s, non-speech excluded: use --smoothing 0.2",
    ]
    labels = {label for each in read_rttm(exported.files["alpha.rttm"]).values() for _, _, label in each}
    assert labels == {"bonafide"}
    assert len(export(scoring, "rttm", smoothing_s=0.2).remarks) == 1


def test_rttm_of_a_scored_beginning_ends_with_it(tmp_path: Path):
    folder = write_spliced(tmp_path / "first", num_scored=30)
    exported = export(load_scoring(folder), "rttm")
    ends = {each[-1][1] for each in read_rttm(exported.files["beta.rttm"]).values()}
    assert ends == {0.6}
    assert exported.remarks[-1] == "80 utterances: only the beginning was scored, and has regions"


def test_rttm_needs_scores_of_frames_and_ids_without_white_space(plain: Scoring, tmp_path: Path):
    with pytest.raises(InputError, match=r"plain: these scores have no scores of frames; .* with --frames"):
        export(plain, "rttm")
    folder = write_spliced(tmp_path / "spliced", corpora=["alpha"])
    table = read_table(folder, layout.part_name(0))
    spaced = pa.array([f"{name} x" for name in table["id"].to_pylist()])
    folder.commit(layout.part_name(0), to_parquet(table.set_column(1, "id", spaced)))
    with pytest.raises(InputError, match="alpha: the id 'alpha_000 x' has white space"):
        export(load_scoring(folder), "rttm")


def test_rttm_of_audio_files_is_one_file(tmp_path: Path) -> None:
    folder = write_spliced(tmp_path / "calls", corpora=["alpha"], regions_of=[], audio="/calls")
    for name, schema in (
        (layout.part_name(0), layout.FILE_COLUMNS),
        (layout.frames_name(0), layout.frames_schema("path", "float32")),
    ):
        table = read_table(folder, name)
        if "path" not in table.column_names:
            rows = [int(uid[4:], 16) for uid in table["uid"].to_pylist()]
            table = table.append_column("path", pa.array([f"{row}.wav" for row in rows]))
        folder.commit(name, to_parquet(table.select(schema.names)))
    exported = export(load_scoring(folder), "rttm", smoothing_s=0.0)
    assert sorted(exported.files) == ["audio.rttm"]
    assert len(read_rttm(exported.files["audio.rttm"])) == 40
