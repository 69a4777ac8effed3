from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipeline import tables
from pipeline.data.store.duplicates import count_overlaps, find_duplicates
from pipeline.data.store.layout import index_name
from pipeline.data.store.shard_tables import INDEX
from pipeline.storage import Folder


def write_index(
    store: Folder, corpus: str, shard: str, audio: list[str], split: str = "train"
) -> tuple[str, str]:
    """Write an index whose utterances have the given digests; returns corpus and shard."""
    rows = [
        {
            "uid": f"{corpus}-{shard}-{number}",
            "id": f"{number}",
            "corpus": corpus,
            "split": split,
            "pcm_sha256": digest,
        }
        for number, digest in enumerate(audio)
    ]
    store.commit(index_name(corpus, shard), tables.to_parquet(pa.Table.from_pylist(rows, INDEX)))
    return corpus, shard


def sha(number: int) -> str:
    return f"{number:064x}"[::-1]


def test_equal_audio_is_found_across_shards_and_corpora(tmp_path: Path):
    store = Folder(str(tmp_path))
    shards = [
        write_index(store, "asvspoof2019_la", "a", [sha(1), sha(2), sha(3)], "validation"),
        write_index(store, "asvspoof2019_la", "b", [sha(4), sha(5)], "train"),
        write_index(store, "decro", "c", [sha(2), sha(6), sha(5), sha(5)], "train"),
    ]
    duplicates = find_duplicates(store, shards)
    groups: dict[int, set[str]] = {}
    for row in duplicates.to_pylist():
        groups.setdefault(row["group"], set()).add(row["uid"])
    assert sorted(map(sorted, groups.values())) == [
        ["asvspoof2019_la-a-1", "decro-c-0"],
        ["asvspoof2019_la-b-1", "decro-c-2", "decro-c-3"],
    ]
    assert count_overlaps(duplicates) == {
        "asvspoof2019_la/train + decro/train": 1,
        "asvspoof2019_la/validation + decro/train": 1,
    }


def test_digests_with_equal_first_halves_are_not_duplicates(tmp_path: Path):
    store = Folder(str(tmp_path))
    shards = [write_index(store, "x", "a", ["a" * 64, "a" * 32 + "b" * 32, sha(1)])]
    assert len(find_duplicates(store, shards)) == 0


def test_an_empty_store_has_no_duplicates(tmp_path: Path):
    assert len(find_duplicates(Folder(str(tmp_path)), [])) == 0
