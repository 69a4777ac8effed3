"""A file that has changed is read again, one that has only been touched or copied is not built again.

Each ingest runs in this process, by the functions that `bonafide ingest` runs on Ray.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile

from jobs.ingestion.building import build_batch, corpus_snapshot, plan_corpora
from jobs.ingestion.cataloging import CatalogedCorpus, Cataloger, Listing, catalog_corpora
from jobs.ingestion.config import IngestConfig
from jobs.ingestion.sources import find_sources
from jobs.ingestion.verification import verify_batch
from pipeline.data.audio.flac import decode_pcm
from pipeline.data.store import layout
from pipeline.data.store.plan import missing_shards
from pipeline.data.store.shard_tables import read_index, read_summary
from pipeline.data.store.snapshot import Snapshot, all_snapshots, commit_snapshot, latest_snapshot
from pipeline.fields import Names
from pipeline.storage import Folder
from tests.corpora import write_in_the_wild

CORPUS = "in_the_wild"
CLIPS = "In-the-Wild/release_in_the_wild"


class Corpus(NamedTuple):
    """A corpus of clips that are longer than a fingerprint covers, and its store."""

    data: Path
    store: Folder

    def clip(self, number: int) -> Path:
        return self.data / CLIPS / f"{number}.wav"


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    write_in_the_wild(tmp_path / "data", count=4, seconds=7)
    return Corpus(tmp_path / "data", Folder(str(tmp_path / "store")))


def ingest(corpus: Corpus, before_build: Callable[[], object] = lambda: None) -> tuple[Snapshot, list[str]]:
    """Ingest the corpus; returns the snapshot, and the names of the shards that were built for it."""
    data, store = corpus
    config = IngestConfig(str(data), store.uri, Names((CORPUS,)), shard_mib=0.25)  # one or two clips
    sources = find_sources(config)
    before = latest_snapshot(store)
    cataloger = Cataloger(sources, store).after(before)
    found = CatalogedCorpus(Listing(CORPUS, {}))
    for part in cataloger.list_parts(CORPUS):
        if not isinstance(part, Listing):
            found.rows.add(cataloger.probe_part(CORPUS, part))
    plans = plan_corpora({CORPUS: found}, sources, store, before, config)
    plan = plans[CORPUS]
    before_build()
    missing = missing_shards(plan.shards, layout.finished_shards(store, CORPUS))
    names = [shard.name for shard in plan.shards]
    tasks: dict[str, Sequence[Any]] = {
        "corpus": [CORPUS] * len(missing),
        "shard": [shard.name for shard in missing],
        "catalog": [plan.catalog] * len(missing),
        "group": [names.index(shard.name) for shard in missing],
    }
    build_batch(tasks, sources, store, config.resampler)
    summaries = {name: read_summary(store, CORPUS, name) for name in names}
    snapshot = commit_snapshot(store, [corpus_snapshot(sources[CORPUS].manifest, plan, summaries)])
    return snapshot, [shard.name for shard in missing]


def needs_ray(corpus: Corpus) -> bool:
    """Whether the next `bonafide ingest` opens any file."""
    config = IngestConfig(str(corpus.data), corpus.store.uri, Names((CORPUS,)))
    started: list[bool] = []

    def start_ray() -> None:
        started.append(True)
        raise InterruptedError

    cataloger = Cataloger(find_sources(config), corpus.store)
    with contextlib.suppress(InterruptedError):
        catalog_corpora(cataloger, latest_snapshot(corpus.store), start_ray)
    return bool(started)


def audio(corpus: Corpus, snapshot: Snapshot, number: int) -> np.ndarray:
    """What the store has of a clip."""
    for shard in snapshot.corpora[CORPUS].shards:
        for row in read_index(corpus.store, CORPUS, shard.name).to_pylist():
            if row["path"].endswith(f"/{number}.wav"):
                tar = corpus.store.read(layout.tar_name(CORPUS, shard.name))
                return decode_pcm(tar[row["offset"] : row["offset"] + row["num_bytes"]])
    raise LookupError(number)


def faults(corpus: Corpus) -> list[str]:
    """What verify finds in all snapshots."""
    shards = [shard for snapshot in all_snapshots(corpus.store) for shard in snapshot.corpora[CORPUS].shards]
    batch: dict[str, Sequence[Any]] = {
        "corpus": [CORPUS] * len(shards),
        "shard": [shard.name for shard in shards],
        "sha256": [shard.sha256 for shard in shards],
        "num_utterances": [shard.num_utterances for shard in shards],
    }
    return [fault for found in verify_batch(batch, corpus.store, decode=True)["faults"] for fault in found]


def overwrite_middle(path: Path, data: bytes) -> None:
    """Replace bytes of the middle; the size stays, the time does not."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(status.st_size // 2)
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def test_an_untouched_corpus_builds_and_opens_nothing(corpus: Corpus):
    first, built = ingest(corpus)
    assert len(built) == len(first.corpora[CORPUS].shards) > 1
    assert not needs_ray(corpus)
    assert ingest(corpus) == (first, [])


def test_a_file_that_is_mended_in_the_middle_is_built_again(corpus: Corpus):
    path = corpus.clip(1)
    mended = path.read_bytes()
    overwrite_middle(path, bytes(40_000))
    damaged, _ = ingest(corpus)
    old = audio(corpus, damaged, 1)
    overwrite_middle(path, mended[len(mended) // 2 :][:40_000])
    assert path.read_bytes() == mended
    assert needs_ray(corpus)
    second, rebuilt = ingest(corpus)
    new = audio(corpus, second, 1)
    assert len(rebuilt) == 1
    assert len(new) == len(old)
    assert not np.array_equal(new, old)
    assert not faults(corpus), "the shard of the first snapshot has its old bytes"
    assert ingest(corpus) == (second, [])


def ingest_until_its_snapshot(corpus: Corpus) -> list[str]:
    """An ingest that is interrupted before it commits; returns the names of the shards that it built."""
    snapshot, built = ingest(corpus)
    corpus.store.delete(layout.snapshot_name(snapshot.name))
    return built


@pytest.mark.parametrize("has_snapshot", [True, False])
def test_an_interrupted_ingest_is_continued_without_opening_a_file(corpus: Corpus, has_snapshot: bool):
    if has_snapshot:
        ingest(corpus)
        write_in_the_wild(corpus.data, count=2, seconds=7, first=4)
    assert ingest_until_its_snapshot(corpus)
    if has_snapshot:  # without one, Ray starts in any case
        assert not needs_ray(corpus)
    _, built = ingest(corpus)
    assert built == []


@pytest.mark.parametrize("has_snapshot", [True, False])
def test_a_file_that_is_mended_after_an_interrupted_ingest_is_built_again(
    corpus: Corpus, has_snapshot: bool, tmp_path: Path
):
    if has_snapshot:
        ingest(corpus)
        write_in_the_wild(corpus.data, count=2, seconds=14, first=4)
    path = corpus.clip(5 if has_snapshot else 1)
    mended = path.read_bytes()
    overwrite_middle(path, bytes(40_000))
    ingest_until_its_snapshot(corpus)
    overwrite_middle(path, mended[len(mended) // 2 :][:40_000])
    assert path.read_bytes() == mended
    continued, rebuilt = ingest(corpus)
    assert len(rebuilt) == 1
    undisturbed = Corpus(corpus.data, Folder(str(tmp_path / "other")))
    whole, _ = ingest(undisturbed)
    number = int(path.stem)
    assert np.array_equal(audio(corpus, continued, number), audio(undisturbed, whole, number))
    assert not faults(corpus)


def test_a_catalog_of_an_interrupted_ingest_does_not_move_files_to_other_shards(corpus: Corpus):
    first, _ = ingest(corpus)
    hidden = corpus.data / CLIPS / ".hidden"
    hidden.mkdir()
    for number in (0, 1):
        corpus.clip(number).rename(hidden / f"{number}.wav")
    ingest_until_its_snapshot(corpus)
    for number in (0, 1):
        (hidden / f"{number}.wav").rename(corpus.clip(number))
    again, built = ingest(corpus)
    assert (again.corpora[CORPUS].shards, built) == (first.corpora[CORPUS].shards, [])


def test_a_reject_whose_file_is_mended_in_the_middle_is_written(corpus: Corpus):
    path = corpus.clip(2)
    samples, rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, samples, rate, format="FLAC")  # by its content; the name still ends in .wav
    mended = path.read_bytes()
    overwrite_middle(path, bytes(1000))
    first, _ = ingest(corpus)
    assert (first.corpora[CORPUS].written, sum(first.corpora[CORPUS].rejected.values())) == (3, 1)
    assert not needs_ray(corpus), "the file has not changed, and the decoders are the same"
    overwrite_middle(path, mended[len(mended) // 2 :][:1000])
    second, rebuilt = ingest(corpus)
    assert (second.corpora[CORPUS].written, second.corpora[CORPUS].rejected) == (4, {})
    assert len(rebuilt) == 1


def test_a_file_that_is_mended_and_damaged_by_turns_always_has_the_audio_of_its_bytes(corpus: Corpus):
    path = corpus.clip(0)
    whole = path.read_bytes()
    middle = whole[len(whole) // 2 :][:40_000]
    expected: dict[bytes, bytes] = {}
    for number, content in enumerate((middle, bytes(40_000), middle, middle[::-1], middle)):
        overwrite_middle(path, content)
        snapshot, _ = ingest(corpus)
        heard = audio(corpus, snapshot, 0).tobytes()
        assert expected.setdefault(content, heard) == heard, number
    assert len(set(expected.values())) == 3
    assert not faults(corpus)


def test_a_file_with_another_size_is_built_again_even_if_it_gets_its_old_size_back(corpus: Corpus):
    path = corpus.clip(3)
    whole = path.read_bytes()
    ingest(corpus)
    soundfile.write(path, np.linspace(-0.5, 0.5, 100_000), 22_050)
    short, _ = ingest(corpus)
    assert len(audio(corpus, short, 3)) == pytest.approx(100_000 * 16_000 / 22_050, abs=1)
    path.write_bytes(whole)
    overwrite_middle(path, bytes(40_000))
    second, rebuilt = ingest(corpus)
    assert len(rebuilt) == 1
    assert np.count_nonzero(audio(corpus, second, 3) == 0) > 10_000


@pytest.mark.parametrize("change", ["touch", "copy"])
def test_files_that_are_touched_or_copied_are_not_built_again(corpus: Corpus, change: str, tmp_path: Path):
    first, _ = ingest(corpus)
    moved = corpus
    if change == "copy":
        shutil.copytree(corpus.data, tmp_path / "copy", copy_function=shutil.copyfile)
        moved = corpus._replace(data=tmp_path / "copy")
    for number in range(4):
        touch(moved.clip(number))
    assert needs_ray(moved)
    second, built = ingest(moved)
    assert built == []
    assert second.corpora[CORPUS].shards == first.corpora[CORPUS].shards
    assert not needs_ray(moved), "the new times are known now"
    overwrite_middle(moved.clip(0), bytes(40_000))
    assert len(ingest(moved)[1]) == 1


def test_a_file_that_changes_while_its_shard_is_built_is_rejected_and_then_written(corpus: Corpus):
    path = corpus.clip(1)

    def grow() -> None:
        samples, rate = soundfile.read(path)
        soundfile.write(path, np.tile(samples, 2), rate)

    first, _ = ingest(corpus, before_build=grow)
    assert first.corpora[CORPUS].rejected == {"changed": 1}
    second, rebuilt = ingest(corpus)
    assert (second.corpora[CORPUS].written, second.corpora[CORPUS].rejected) == (4, {})
    assert len(rebuilt) == 1
    assert not faults(corpus)


def test_a_file_that_could_not_be_read_is_tried_again_until_it_can(corpus: Corpus):
    path, kept = corpus.clip(1), corpus.clip(1).with_suffix(".kept")

    def fail() -> None:
        path.rename(kept)
        path.symlink_to("/proc/self/mem")  # every read of it ends with an error

    first, _ = ingest(corpus, before_build=fail)
    assert first.corpora[CORPUS].rejected == {"unreadable": 1}
    path.unlink()
    kept.rename(path)
    assert needs_ray(corpus)
    second, rebuilt = ingest(corpus)
    assert (second.corpora[CORPUS].written, second.corpora[CORPUS].rejected) == (4, {})
    assert len(rebuilt) == 1
    assert ingest(corpus) == (second, [])


def test_a_file_that_was_missing_for_a_moment_is_written_by_the_next_ingest(corpus: Corpus):
    path, kept = corpus.clip(1), corpus.clip(1).with_suffix(".kept")
    first, _ = ingest(corpus, before_build=lambda: path.rename(kept))
    assert first.corpora[CORPUS].rejected == {"missing": 1}
    kept.rename(path)
    second, rebuilt = ingest(corpus)
    assert (second.corpora[CORPUS].written, second.corpora[CORPUS].rejected) == (4, {})
    assert len(rebuilt) == 1
