"""One row for everything found: what is known stays known, and an id names one utterance."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from pipeline.data.corpora.corpus import read_files
from pipeline.data.corpora.manifest import load_manifests
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.store import catalog as catalogs
from pipeline.data.store.catalog import REPEATED_ID, KnownFiles, Row
from pipeline.storage import Folder
from tests.data.corpora.layouts import LAYOUTS

MANIFESTS = load_manifests()
LJSPEECH = MANIFESTS["ljspeech"]
WAVS = "LJSpeech-1.1/wavs"


@pytest.fixture
def root(tmp_path: Path) -> Folder:
    """LJSpeech of three clips, one of them cut short and one of them no audio."""
    rng = np.random.default_rng(0)
    (tmp_path / WAVS).mkdir(parents=True)
    for number in range(3):
        soundfile.write(tmp_path / WAVS / f"LJ001-000{number}.wav", 0.1 * rng.standard_normal(9000), 22_050)
    os.truncate(tmp_path / WAVS / "LJ001-0001.wav", 5000)
    (tmp_path / WAVS / "LJ001-0002.wav").write_bytes(b"<html>not found</html>" * 50)
    return Folder(str(tmp_path))


def listed(root: Folder, corpus: str = "ljspeech") -> list[Row]:
    manifest = MANIFESTS[corpus]
    return list(catalogs.rows(read_files(manifest, root), corpus, Recipe()))


def cataloged(root: Folder, known: pa.Table | None = None) -> tuple[pa.Table, list[str]]:
    """The catalog, and the files that were opened for it."""
    opened = []

    def read(root: Folder, path: str, size: int) -> Row:
        opened.append(path.rpartition("/")[2])
        return catalogs.read_header(root, path, size)

    rows = KnownFiles(known).fill(listed(root))
    return catalogs.table(list(catalogs.probe_rows(rows, root, LJSPEECH, None, read))), opened


def problems(catalog: pa.Table) -> dict[str, str]:
    return {row["path"].rpartition("/")[2]: row["problem"] for row in catalog.to_pylist() if row["problem"]}


def test_files_that_have_not_changed_are_not_opened_again(root: Folder):
    first, opened = cataloged(root)
    assert problems(first) == {"LJ001-0001.wav": "truncated", "LJ001-0002.wav": "not_audio"}
    assert len(opened) == 3
    second, opened = cataloged(root, first)
    assert second.equals(first)
    assert opened == []


def test_a_file_that_has_changed_is_opened_again(root: Folder):
    first, _ = cataloged(root)
    soundfile.write(root.location(f"{WAVS}/LJ001-0001.wav"), np.linspace(-0.5, 0.5, 5000), 22_050)
    second, opened = cataloged(root, first)
    assert opened == ["LJ001-0001.wav"]
    assert problems(second) == {"LJ001-0002.wav": "not_audio"}


def test_another_decoder_gets_a_chance_at_what_the_last_one_refused(root: Folder):
    first, _ = cataloged(root)
    older = first.replace_schema_metadata({"decoders": json.dumps({"libsndfile": "1.0"})})
    _, opened = cataloged(root, older)
    assert opened == ["LJ001-0001.wav", "LJ001-0002.wav"]


def test_a_problem_that_was_none_of_the_file_does_not_stay_with_it(root: Folder):
    first, _ = cataloged(root)
    position = first.schema.get_field_index("problem")
    excluded = first.set_column(position, catalogs.CATALOG.field("problem"), pa.array(["excluded-train"] * 3))
    second, opened = cataloged(root, excluded)
    assert problems(second) == problems(first)
    assert opened == ["LJ001-0001.wav", "LJ001-0002.wav"]


def test_a_file_that_went_away_after_it_was_listed_is_missing(root: Folder):
    rows = listed(root)
    root.delete(f"{WAVS}/LJ001-0000.wav")
    found = catalogs.table(list(catalogs.probe_rows(rows, root, LJSPEECH, None)))
    assert problems(found)["LJ001-0000.wav"] == "missing"


def row(path: str, id_: str, **others: object) -> Row:
    return dict.fromkeys(catalogs.CATALOG.names) | {"corpus": "toy", "path": path, "id": id_} | others


def test_an_id_that_several_files_share_stays_with_the_smallest_path():
    rows = [row("b.m4a", "X"), row("a.wav", "X"), row("c.wav", "Y"), row("d.wav", "X")]
    for order in itertools.permutations(rows):
        found = {
            one["path"]: one for one in catalogs.reject_repeated(catalogs.table(list(order))).to_pylist()
        }
        assert {path: one["problem"] for path, one in found.items()} == {
            "a.wav": None,
            "b.m4a": REPEATED_ID,
            "c.wav": None,
            "d.wav": REPEATED_ID,
        }
        assert found["b.m4a"]["detail"] == "b.m4a: X is also the id of a.wav"


def test_what_is_not_written_takes_no_id_from_what_is():
    rows = [
        row("a.wav", "X", problem="truncated", detail="cut short"),
        row("b.wav", "X"),
        row("c.wav", "Y", problem="excluded-test"),
        row("d.wav", "Y"),
    ]
    assert catalogs.reject_repeated(catalogs.table(rows)).to_pylist() == rows


def test_segments_of_one_file_have_ids_of_their_own_or_are_repeated():
    rows = [
        row("a.wav", "X_seg2", start=100, end=200),
        row("a.wav", "X_seg1", start=0, end=100),
        row("b.wav", "X", start=100, end=200),
        row("b.wav", "X", start=0, end=100),
    ]
    found = catalogs.reject_repeated(catalogs.table(rows)).to_pylist()
    assert [one["problem"] for one in found] == [None, None, REPEATED_ID, None]


def test_a_catalog_keeps_its_columns_and_what_it_knows_of_decoders():
    rows = [row("b.wav", "X"), row("a.wav", "X")]
    found = catalogs.reject_repeated(pa.concat_tables([catalogs.table([one]) for one in rows]))
    assert found.schema.equals(catalogs.CATALOG, check_metadata=True)


def test_both_forms_of_a_clip_of_voxceleb2_give_one_utterance(tmp_path: Path):
    for suffix in ("wav", "m4a"):
        path = tmp_path / "dev" / "aac" / "id00012" / "21Uxsk56VDQ" / f"00001.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    found = catalogs.reject_repeated(catalogs.table(listed(Folder(str(tmp_path)), "voxceleb2"))).to_pylist()
    assert [(one["path"][-4:], one["problem"]) for one in found] == [(".m4a", None), (".wav", REPEATED_ID)]


def test_no_documented_layout_repeats_an_id(tmp_path: Path):
    for layout in LAYOUTS:
        rows = listed(Folder(str(layout.write(tmp_path / layout.name))), layout.name)
        found = catalogs.reject_repeated(catalogs.table(rows))
        assert REPEATED_ID not in found["problem"].to_pylist(), layout.name
