"""The table of regions has all regions of an utterance or none, and what does not fit is counted by reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import tables
from pipeline.data.corpora.manifest import Manifest, load_manifest
from pipeline.data.corpora.utterance import utterance_uid
from pipeline.data.store import layout
from pipeline.data.store.catalog import CATALOG
from pipeline.data.store.regions import REGIONS, RegionSummary, commit_regions, find_fault
from pipeline.data.store.snapshot import (
    CorpusSnapshot,
    Snapshot,
    commit_snapshot,
    load_regions,
    load_snapshot,
)
from pipeline.errors import InputError
from pipeline.storage import Folder
from tests.data.corpora.layouts import put
from tests.data.corpora.regions.test_regions import MANIFEST, SEGMENTS, VAD, save

CATALOG_NAME = "catalog/toy/d.parquet"

UTTERANCES = {"dev/whole.wav": "bonafide", "dev/part.wav": "spoof", "eval/part.wav": "spoof"}


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    """A store with the catalog of a corpus of three utterances of 2 s, and one that was rejected."""
    store = Folder(str(tmp_path / "store"))
    rows = [
        {"uid": utterance_uid("toy", path), "path": path, "label": label, "seconds": 2.0}
        for path, label in UTTERANCES.items()
    ]
    lost = {"uid": "f" * 16, "path": "eval/lost.wav", "label": "spoof", "problem": "truncated"}
    store.commit(CATALOG_NAME, tables.to_parquet(pa.Table.from_pylist([*rows, lost], CATALOG)))
    return store


def manifest_of(tmp_path: Path, rules: str = VAD) -> Manifest:
    put(tmp_path / "toy.toml", MANIFEST + rules)
    return load_manifest(tmp_path / "toy.toml")


def write(tmp_path: Path, **files: str) -> None:
    """Write `.vad` files by set and utterance: `dev_part="0 1 0"`; by default, all regions fit."""
    good = {"dev_whole": "0 2 1", "dev_part": "0 1 1\n1 2 0", "eval_part": "0 0.5 2\n0.5 2 0"}
    for name, text in (good | files).items():
        put(tmp_path / "data/vad" / f"{name.replace('_', '/', 1)}.vad", text)


def commit(tmp_path: Path, store: Folder, rules: str = VAD) -> RegionSummary:
    return commit_regions(store, manifest_of(tmp_path, rules), Folder(str(tmp_path / "data")), CATALOG_NAME)


def read(store: Folder, regions: RegionSummary) -> dict[str, list[tuple[float, float, str]]]:
    """The regions by the path of their utterance, as a snapshot lists them."""
    corpus = CorpusSnapshot("toy", "train", "", None, "", "", 3, {}, {}, {}, regions=regions)
    table = load_regions(store, Snapshot(1, "", {"toy": corpus}))
    paths = {utterance_uid("toy", path): path for path in UTTERANCES}
    by_path: dict[str, list[tuple[float, float, str]]] = {}
    for row in table.to_pylist():
        by_path.setdefault(paths[row["uid"]], []).append((row["start_s"], row["end_s"], row["label"]))
    return by_path


def test_regions_are_joined_to_utterances_on_all_fields_of_both(store: Folder, tmp_path: Path):
    write(tmp_path)
    regions = commit(tmp_path, store)
    assert read(store, regions) == {
        "dev/whole.wav": [(0.0, 2.0, "bonafide")],
        "dev/part.wav": [(0.0, 1.0, "bonafide"), (1.0, 2.0, "spoof")],
        "eval/part.wav": [(0.0, 0.5, "non_speech"), (0.5, 2.0, "spoof")],
    }
    assert regions.seconds == {"bonafide": 3.0, "non_speech": 0.5, "spoof": 2.5}
    assert (regions.num_utterances, regions.problems, regions.examples) == (3, {}, {})


@pytest.mark.parametrize(
    ("text", "reason", "example"),
    [
        ("0 1 1\n1 2 7", "unknown-label", ":2: 1 to 2 s has the label '7'"),
        ("0 1 1\n1 2.03 0", "beyond-end", ":2: 1 to 2.03 s, but the utterance has 2 s"),
        ("0 1.1 1\n1 2 0", "overlap", ":2: 1 to 2 s overlaps the region before it by 0.1 s"),
        ("0 2 1", "contradicts-label", ":1: 0 to 2 s: no region of the spoofed utterance is spoofed"),
    ],
)
def test_an_utterance_with_a_region_that_does_not_fit_has_none(
    text: str, reason: str, example: str, store: Folder, tmp_path: Path
):
    write(tmp_path, dev_part=text)
    regions = commit(tmp_path, store)
    assert sorted(read(store, regions)) == ["dev/whole.wav", "eval/part.wav"]
    assert regions.problems == {reason: 1}
    assert regions.examples[reason] == f"vad/dev/part.vad{example}"


def test_bona_fide_utterances_have_no_spoofed_region(store: Folder, tmp_path: Path):
    write(tmp_path, dev_whole="0 1 1\n1 2 0")
    regions = commit(tmp_path, store)
    assert regions.examples == {
        "contradicts-label": "vad/dev/whole.vad:1: 0 to 1 s: the utterance is bona fide"
    }


def test_names_without_an_utterance_and_utterances_without_regions_are_counted(store: Folder, tmp_path: Path):
    write(tmp_path, dev_other="0 2 1\n2 3 0", eval_lost="0 2 0", eval_part="")
    regions = commit(tmp_path, store)
    assert regions.problems == {"lost-utterance": 1, "no-regions": 1, "unknown-utterance": 1}
    assert regions.examples == {
        "lost-utterance": "vad/eval/lost.vad:1: eval/lost",
        "no-regions": "eval/part.wav",
        "unknown-utterance": "vad/dev/other.vad:1: dev/other",
    }


def test_rounding_is_no_problem_and_is_cut(store: Folder, tmp_path: Path):
    write(tmp_path, dev_part="0 1.0005 1\n1 1 0\n1 2.02 0\n2.01 2.02 1")
    regions = commit(tmp_path, store)
    assert read(store, regions)["dev/part.wav"] == [(0.0, 1.0, "bonafide"), (1.0, 2.0, "spoof")]
    assert regions.problems == {"empty": 1}
    assert regions.examples == {"empty": "vad/dev/part.vad:2: 1 to 1 s"}


def test_the_last_segment_may_exceed_the_utterance(store: Folder, tmp_path: Path):
    labels = {"part": np.array(["1", "1", "0", "0", "0"])}
    save(tmp_path / "data/segment_labels/dev_seglab_0.5.npy", labels)
    regions = commit(tmp_path, store, SEGMENTS)
    assert read(store, regions) == {"dev/part.wav": [(0.0, 1.0, "bonafide"), (1.0, 2.0, "spoof")]}
    assert regions.problems == {"no-regions": 2}


def test_a_name_that_several_utterances_have_is_ambiguous(store: Folder, tmp_path: Path):
    put(tmp_path / "data/regions.txt", "part 0 2 0\n")
    columns = 'files = "regions.txt"\ncolumns = ["utterance", "start", "end", "label"]\nlabels = { "0" = "spoof" }\n'
    regions = commit(tmp_path, store, columns)
    assert regions.examples["ambiguous-utterance"] == "regions.txt:1: part"


def test_without_files_no_utterance_has_regions(store: Folder, tmp_path: Path):
    (tmp_path / "data").mkdir()
    regions = commit(tmp_path, store)
    assert regions.problems == {"no-files": 0, "no-regions": 3}
    assert regions.examples["no-files"] == "there is no vad/{split=dev|eval}/{utterance}.vad"
    assert read(store, regions) == {}


def test_a_malformed_line_ends_the_reading(store: Folder, tmp_path: Path):
    write(tmp_path, dev_part="0 1 1\n1 2")
    with pytest.raises(InputError, match=r"vad/dev/part\.vad: line 2: found 2 columns instead of 3"):
        commit(tmp_path, store)
    assert not store.exists("regions")


def test_names_in_another_unicode_form_are_the_same(store: Folder, tmp_path: Path):
    row = {"uid": "a" * 16, "path": "dev/caf\u00e9.wav", "label": "spoof", "seconds": 2.0}
    store.commit(CATALOG_NAME, tables.to_parquet(pa.Table.from_pylist([row], CATALOG)))
    put(tmp_path / "data/vad/dev/cafe\u0301.vad", "0 2 0")
    assert commit(tmp_path, store).num_utterances == 1


def test_a_snapshot_lists_the_table_and_its_digest_depends_on_the_content_alone(
    store: Folder, tmp_path: Path
):
    write(tmp_path)
    first = commit(tmp_path, store)
    put(tmp_path / "data/vad/dev/part.vad", "1.0 2.0 0\n0.0 1.0 1\n")
    assert commit(tmp_path, store) == first
    rows = tables.read_table(store, CATALOG_NAME)
    store.commit(CATALOG_NAME, tables.to_parquet(rows.take(list(range(len(rows)))[::-1])))
    assert commit(tmp_path, store) == first
    write(tmp_path, dev_part="0 1.5 1\n1.5 2 0")
    second = commit(tmp_path, store)
    assert second.digest != first.digest

    corpus = CorpusSnapshot("toy", "train", "", None, "", CATALOG_NAME, 3, {}, {}, {})
    snapshots = [commit_snapshot(store, [replace(corpus, regions=each)]) for each in (None, first, second)]
    assert len({snapshot.digest for snapshot in snapshots}) == 3
    assert [load_snapshot(store, each.name) for each in snapshots] == snapshots
    other = replace(first, problems={"empty": 1}, examples={"empty": "x"})
    same = replace(snapshots[1], corpora={"toy": replace(corpus, regions=other)})
    assert same.digest == snapshots[1].digest
    assert load_regions(store, snapshots[0]).schema == REGIONS


def test_a_damaged_table_is_a_fault(store: Folder, tmp_path: Path):
    write(tmp_path)
    digest = commit(tmp_path, store).digest
    name = layout.regions_name("toy", digest)
    assert find_fault(store, "toy", digest) is None
    data = store.read(name)
    store.commit(name, data[:-9])
    assert "cannot be read" in str(find_fault(store, "toy", digest))
    store.commit(name, tables.to_parquet(tables.read_table(Folder(str(tmp_path)), f"store/{CATALOG_NAME}")))
    assert "has changed" in str(find_fault(store, "toy", digest))
    store.delete(name)
    assert "is missing" in str(find_fault(store, "toy", digest))
