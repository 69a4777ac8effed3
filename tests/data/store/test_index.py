"""The training index is the same in memory, on disk, and in every process of a machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline.data.corpora.domains import By, Domain, DomainRule
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.store.index import (
    COLUMNS,
    Index,
    Part,
    join_index,
    load_index,
    map_index,
    write_index,
)
from pipeline.data.store.shards import ShardMember, write_shard
from pipeline.data.store.shared import UNUSED_LIFETIME_S, share_folder
from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot, choose_corpora, commit_snapshot
from pipeline.errors import InputError
from pipeline.storage import Folder
from tests.faults import small_disk

SPLITS = ("train", "validation", None)


def make_index(num: int = 60) -> Index:
    rows = np.arange(num)
    return Index(
        shards=tuple(f"shards/noise/{number}.tar" for number in range(3)),
        corpora=("noise",),
        domains=(Domain("noise", "spoof", "noise/a"), Domain("noise", "bonafide", "noise")),
        shard=(rows // 25).astype(np.int32),
        offset=rows.astype(np.int64) * 512,
        num_bytes=np.full(num, 500, np.int32),
        seconds=np.linspace(1, 2, num, dtype=np.float32),
        label=(rows % 2).astype(np.int8),
        domain=(rows % 2).astype(np.int32),
        uid=rows.astype(np.uint64),
    )


def cut(part: Part, begin: int, end: int) -> Part:
    return Part(part.domains, {name: column[begin:end] for name, column in part.columns.items()})


def split(index: Index, num_rows: int) -> list[Part]:
    """Divide an index into parts of so many rows."""
    return [cut(index.part(), begin, begin + num_rows) for begin in range(0, len(index), num_rows)]


def names_of(index: Index) -> list[str]:
    """The name of the domain of each row."""
    return [index.domains[domain].name for domain in index.domain]


def assert_equal(one: Index, other: Index) -> None:
    assert (one.shards, one.corpora, one.domains) == (other.shards, other.corpora, other.domains)
    for name in COLUMNS:
        assert np.array_equal(getattr(one, name), getattr(other, name))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, Snapshot]:
    """Two corpora of two shards with three clips each."""
    folder = tmp_path_factory.mktemp("index")
    store = Folder(str(folder / "store"))
    corpora = []
    for number, corpus in enumerate(("aaa", "bbb")):
        shards = []
        for part in range(2):
            members = [make_member(folder, corpus, 6 * number + 3 * part + clip) for clip in range(3)]
            summary = write_shard(
                f"{corpus}-{9 - part}", members, Folder(str(folder)), store, licence="", resampler="soxr_hq"
            )
            shards.append(summary)
        corpora.append(CorpusSnapshot(corpus, "train", "", None, "", "", 6, {}, {}, {}, tuple(shards)))
    return store, commit_snapshot(store, corpora)


def make_member(folder: Path, corpus: str, number: int) -> ShardMember:
    path = f"{number}.wav"
    noise = np.random.default_rng(number).standard_normal(8_000 + 160 * number)
    soundfile.write(folder / path, 0.1 * noise.clip(-3, 3), 16_000)
    columns: Any = dict.fromkeys(ShardMember.__annotations__)
    return columns | {
        "uid": f"{0xF000000000000000 + number:016x}",
        "id": str(number),
        "corpus": corpus,
        "path": path,
        "label": ("spoof", "bonafide")[number % 2],
        "artifact": None if number % 2 else ("tts", "vocoder")[number % 4 // 2],
        "attack": "bark" if number % 4 == 0 and number < 8 else None,
        "language": ("pl", None)[number // 6],
        "split": SPLITS[number % 3],
    }


def test_an_index_has_the_utterances_of_the_shards(store: tuple[Folder, Snapshot]) -> None:
    folder, snapshot = store
    index = load_index(folder, snapshot, Recipe(bonafide_artifacts=("vocoder",)), "train")
    numbers = (index.uid - np.uint64(0xF000000000000000)).tolist()
    assert numbers == [0, 2, 3, 5, 6, 8, 9, 11]  # the others validate
    assert index.corpora == ("aaa", "bbb")
    assert names_of(index) == ["aaa/bark", "aaa", "aaa", "aaa", "bbb", "bbb/tts", "bbb", "bbb"]
    assert [index.domains[domain].corpus for domain in index.domain] == ["aaa"] * 4 + ["bbb"] * 4
    assert [index.shards[shard] for shard in index.shard[:3]] == [
        "shards/aaa/aaa-9.tar",
        "shards/aaa/aaa-9.tar",
        "shards/aaa/aaa-8.tar",
    ]
    assert index.label.tolist() == [number % 2 or int(number % 4 == 2) for number in numbers]
    assert np.rint(index.seconds * 16_000).tolist() == [8_000 + 160 * number for number in numbers]
    for row, shard in enumerate(index.shard.tolist()):
        begin = int(index.offset[row])
        data = folder.read(index.shards[shard], begin, begin + int(index.num_bytes[row]))
        assert data[:4] == b"fLaC"


def test_a_shared_index_is_equal_and_reads_the_store_once(
    store: tuple[Folder, Snapshot], tmp_path: Path
) -> None:
    folder, snapshot = store
    chosen = choose_corpora(snapshot, ["bbb"])
    copies = Recipe(bonafide_artifacts=("vocoder",))
    for recipe in (Recipe(), copies):
        for part in (snapshot, chosen):
            alone = load_index(folder, part, recipe, "train")
            assert_equal(alone, load_index(folder, part, recipe, "train", tmp_path))
            nowhere = Folder(str(tmp_path / "nowhere"))
            assert_equal(alone, load_index(nowhere, part, recipe, "train", tmp_path))
    assert len(load_index(folder, snapshot, Recipe(), "validation", tmp_path)) == 4
    balance = DomainRule(cap_hours=5.0, bonafide_ratio=1.0, max_repeats=4)
    weighted = replace(copies, name="other", weights={"aaa": 2.0}, domains=balance)
    assert_equal(
        load_index(nowhere, snapshot, weighted, "train", tmp_path), load_index(*store, copies, "train")
    )


@pytest.mark.parametrize(
    ("by", "training"),
    [
        ("attack", ["aaa/bark", "aaa/vocoder", "aaa", "aaa", "bbb/vocoder", "bbb/tts", "bbb", "bbb"]),
        ("corpus", ["aaa/spoof", "aaa/spoof", "aaa", "aaa", "bbb/spoof", "bbb/spoof", "bbb", "bbb"]),
        (
            "language",
            ["aaa:pl/spoof", "aaa:pl/spoof", "aaa:pl", "aaa:pl", "bbb/spoof", "bbb/spoof", "bbb", "bbb"],
        ),
    ],
)
def test_a_recipe_divides_the_training_utterances_into_domains(
    store: tuple[Folder, Snapshot], tmp_path: Path, by: By, training: list[str]
) -> None:
    recipe = Recipe(domains=DomainRule(by=by))
    shared = load_index(*store, recipe, "train", tmp_path)
    assert names_of(shared) == training
    assert len(shared.domains) == len(set(training))
    assert_equal(shared, load_index(*store, recipe, "train"))
    validation = load_index(*store, recipe, "validation", tmp_path)
    assert names_of(validation) == ["aaa", "aaa/bark", "bbb", "bbb/vocoder"]


def test_an_index_may_be_empty(store: tuple[Folder, Snapshot], tmp_path: Path) -> None:
    folder, snapshot = store
    everything = Recipe(validation=("aaa", "bbb"))
    for shared in (None, tmp_path):
        index = load_index(folder, snapshot, everything, "train", shared)
        assert len(index) == 0
        assert index.corpora == ("aaa", "bbb")


def write_and_log(log: Path, folder: Path) -> None:
    with log.open("a") as file:
        file.write("written\n")
    index = make_index()
    write_index(folder, index.shards, index.corpora, split(index, 7))


def die_while_writing(folder: Path) -> None:
    def parts() -> Iterator[Part]:
        yield make_index().part()
        os._exit(1)

    write_index(folder, (), (), parts())


def share(folder: Path, log: Path) -> int:
    return int(share_folder(folder, map_index, partial(write_and_log, log)).uid.sum())


def test_one_of_many_processes_writes_a_shared_index_and_all_read_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    folder = tmp_path / "indexes" / "index"
    with multiprocessing.get_context("forkserver").Pool(4) as pool:
        sums: Sequence[int] = pool.starmap(share, [(folder, log)] * 12, chunksize=1)
    assert set(sums) == {sum(range(60))}
    assert log.read_text() == "written\n"


def test_a_writer_that_dies_leaves_no_index(tmp_path: Path) -> None:
    folder = tmp_path / "indexes" / "index"
    writer = multiprocessing.get_context("forkserver").Process(
        target=share_folder, args=(folder, map_index, die_while_writing)
    )
    writer.start()
    writer.join()
    assert writer.exitcode == 1
    assert not folder.exists()
    assert len(list(folder.parent.glob(".*"))) == 1
    assert share(folder, tmp_path / "log") == sum(range(60))
    assert not list(folder.parent.glob(".*"))


def test_a_shared_index_that_was_not_used_for_two_weeks_is_deleted(tmp_path: Path) -> None:
    old, used, new = (tmp_path / "indexes" / name for name in ("old", "used", "new"))
    log = tmp_path / "log"
    mapped = share_folder(old, map_index, partial(write_and_log, log))
    share(used, log)
    long_ago = time.time() - UNUSED_LIFETIME_S - 1
    for folder in (old, used):
        os.utime(folder, (long_ago, long_ago))
    share(used, log)
    share(new, log)
    assert used.exists()
    assert new.exists()
    assert not old.exists()
    assert log.read_text() == "written\n" * 3
    assert_equal(mapped, make_index())  # still readable by the process that has mapped it


@pytest.mark.parametrize("name", ["tables.json", "offset"])
def test_a_shared_index_that_a_cleaner_of_temporary_files_has_damaged_is_written_again(
    tmp_path: Path, name: str
) -> None:
    folder, log = tmp_path / "indexes" / "index", tmp_path / "log"
    share(folder, log)
    (folder / name).unlink()
    assert_equal(share_folder(folder, map_index, partial(write_and_log, log)), make_index())
    assert log.read_text() == "written\n" * 2


def test_a_shared_index_on_a_full_disk_is_named_and_written_once_there_is_room(tmp_path: Path) -> None:
    folder, log = tmp_path / "disk" / "indexes" / "index", tmp_path / "log"
    with small_disk(tmp_path / "disk", 8) as mount_again:
        with pytest.raises(InputError, match=rf"^{folder.parent}: No space left on device; make room there"):
            share(folder, log)
        mount_again("size=1m")
        assert share(folder, log) == sum(range(60))


def test_a_saved_index_is_mapped_and_pickled_as_its_path(tmp_path: Path) -> None:
    index = make_index()
    index.save(tmp_path / "index")
    mapped = map_index(tmp_path / "index")
    assert len(pickle.dumps(mapped)) < 1000
    for copy in (mapped, pickle.loads(pickle.dumps(mapped)), pickle.loads(pickle.dumps(index))):  # noqa: S301
        assert_equal(copy, index)


def test_consecutive_parts_are_joined_to_one_index() -> None:
    index = make_index()
    assert_equal(join_index(index.shards, index.corpora, split(index, 9)), index)
    turned = Part(index.domains[::-1], {**index.part().columns, "domain": 1 - index.domain})
    assert_equal(join_index(index.shards, index.corpora, [*split(index, 9)[:1], cut(turned, 9, 60)]), index)


def test_an_unsorted_or_malformed_index_is_refused() -> None:
    index = make_index()
    with pytest.raises(ValueError, match="sort rows by shard and offset"):
        replace(index, offset=index.offset[::-1].copy())
    with pytest.raises(ValueError, match="label"):
        replace(index, label=index.label + np.int8(1))
    with pytest.raises(ValueError, match="differs from the labels of the domains"):
        replace(index, label=1 - index.label)
    with pytest.raises(ValueError, match="domain has values from 1 to 2; allowed: 0 to 1"):
        replace(index, domain=index.domain + np.int32(1))
    with pytest.raises(ValueError, match="seconds"):
        replace(index, seconds=index.seconds.astype(np.float64))


def test_recordings_for_augmentation_are_never_chosen_as_utterances(store: tuple[Folder, Snapshot]) -> None:
    _, snapshot = store
    noises = replace(snapshot.corpora["bbb"], role="augmentation")
    mixed = replace(snapshot, corpora=snapshot.corpora | {"bbb": noises})
    assert list(choose_corpora(mixed).corpora) == ["aaa"]
    with pytest.raises(
        InputError, match="bbb is an augmentation corpus, whose recordings are not utterances"
    ):
        choose_corpora(mixed, ["aaa", "bbb"])
    with pytest.raises(InputError, match="has no other corpora; it has: bbb"):
        choose_corpora(replace(mixed, corpora={"bbb": noises}))
