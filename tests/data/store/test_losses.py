"""What was lost is counted by label, attack, language and tool, and a class that lost too much is named."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import tables
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.corpora.utterance import Problem
from pipeline.data.store import catalog as catalogs
from pipeline.data.store import layout, losses
from pipeline.data.store.losses import ClassCounts, format_reasons, loss_warning, severe_losses
from pipeline.data.store.shard_tables import INDEX, REJECTS, ShardSummary
from pipeline.data.store.snapshot import (
    CorpusSnapshot,
    Snapshot,
    commit_snapshot,
    latest_snapshot,
    load_snapshot,
    with_losses,
)
from pipeline.storage import Folder

SHARD_ROWS = 40

Row = dict[str, Any]
"""A row of a catalog; `reject` is the reason for which its shard rejects it."""


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "store"))


def rows(number: int, label: str | None, attack: str | None = None, **columns: Any) -> list[Row]:
    """Catalog rows of one class; `problem` gives them a problem, and `reject` makes their shard reject them."""
    common = {"label": label, "attack": attack, "language": "en"}
    common |= {} if columns.get("problem") else {"container": "wav", "codec": "pcm_16"}
    return [common | columns] * number


def bonafide(number: int, **columns: Any) -> list[Row]:
    return rows(number, "bonafide", **columns)


def spoof(number: int, attack: str, **columns: Any) -> list[Row]:
    return rows(number, "spoof", attack, **columns)


def write(store: Folder, *classes: list[Row], name: str = "toy") -> CorpusSnapshot:
    """Write catalog and rejects of a corpus, and return its entry with the counts by class."""
    found: list[Row] = [
        dict.fromkeys(catalogs.CATALOG.names)
        | {"uid": f"{number:016x}", "path": f"{number}.wav", "corpus": name}
        | row
        for number, row in enumerate(row for members in classes for row in members)
    ]
    members = [row for row in found if not row["problem"]]
    problems = [row for row in found if row["problem"]]
    shards = []
    for first in range(0, len(members), SHARD_ROWS):
        shard = f"{name}-{first}"
        group = members[first : first + SHARD_ROWS]
        for row in group:
            row["shard"] = shard
        rejects = [
            dict.fromkeys(REJECTS.names) | row | {"reason": row["reject"]} for row in group if "reject" in row
        ]
        if rejects:
            data = tables.to_parquet(pa.Table.from_pylist(rejects, REJECTS))
            store.commit(layout.rejects_name(name, shard), data)
        store.commit(layout.index_name(name, shard), tables.to_parquet(INDEX.empty_table()))
        reasons = Counter(str(row["reason"]) for row in rejects)
        shards.append(ShardSummary(shard, name, 1, "0", len(group) - len(rejects), {}, dict(reasons)))
    lengths = [min(SHARD_ROWS, len(members) - first) for first in range(0, len(members), SHARD_ROWS)]
    ordered: list[Any] = [*members, *problems]
    catalog = layout.catalog_name(name, f"{len(found)}")
    store.commit(catalog, tables.to_parquet(catalogs.table(ordered), lengths))
    excluded = Counter(row["problem"] for row in problems if row["problem"].startswith("excluded-"))
    rejected = Counter(row["problem"] for row in problems) - excluded
    for summary in shards:
        rejected.update(summary.rejected)
    entry = CorpusSnapshot(
        name, "train", "", None, "", catalog, len(found), dict(rejected), dict(excluded), {}, tuple(shards)
    )
    return with_losses(store, entry, None)


def warning(corpus: CorpusSnapshot, max_loss: float = losses.MAX_LOSS) -> str | None:
    return loss_warning(corpus.name, corpus.losses, max_loss)


def test_four_spoofs_of_one_attack_with_a_bad_header_are_named(store: Folder):
    lost = spoof(4, "A07", problem="truncated")
    corpus = write(store, bonafide(100), spoof(100, "A01"), lost)
    assert warning(corpus) == "toy lost all 4 utterances of attack A07 (truncated)"


def test_damage_that_is_found_while_building_counts_like_a_bad_header(store: Folder):
    lost = spoof(4, "A07", reject="truncated")
    corpus = write(store, bonafide(100), spoof(10, "A01"), lost)
    assert warning(corpus) == (
        "toy lost all 4 utterances of attack A07 (truncated); 4 of 14 spoof utterances (truncated)"
    )
    attack = next(counts for counts in corpus.losses if counts.name == "A07")
    assert attack == ClassCounts("attack", "A07", 4, 0, 0, {"truncated": 4})


def test_a_protocol_with_another_ending_loses_its_label(store: Folder):
    missing = spoof(30, "A01", problem="missing")
    unlisted = rows(30, None, problem="unlisted", language=None)
    corpus = write(store, bonafide(30), missing, unlisted)
    assert warning(corpus) == (
        "toy lost all 30 spoof utterances (missing); all 30 utterances of attack A01 (missing)"
    )


def test_rows_without_a_file_bring_their_class_into_the_catalog():
    missing = Problem("a.wav", "missing", "", "spoof", "tts", "A07", "de")
    (row,) = catalogs.rows([(None, missing)], "toy", Recipe())
    assert (row["label"], row["attack"], row["language"]) == ("spoof", "A07", "de")


def test_a_language_that_is_gone_is_named(store: Folder):
    corpus = write(
        store,
        bonafide(500),
        spoof(500, "A01"),
        bonafide(5, language="de", reject="silent"),
        spoof(5, "A01", language="de", problem="truncated"),
    )
    assert warning(corpus) == "toy lost all 10 utterances of language de (5 silent, 5 truncated)"


def test_a_tool_of_which_too_much_is_lost_is_named(store: Folder):
    ogg = {"container": "ogg", "codec": "opus"}
    corpus = write(
        store, bonafide(500), spoof(500, "A01"), bonafide(6, **ogg), bonafide(4, **ogg, reject="truncated")
    )
    assert warning(corpus) == "toy lost 4 of 10 utterances of tool ogg/opus (truncated)"


def test_one_percent_of_everything_gives_no_warning(store: Folder):
    corpus = write(
        store,
        bonafide(297),
        bonafide(3, reject="truncated"),
        spoof(198, "A01"),
        spoof(2, "A01", problem="undecodable"),
        spoof(2, "A02"),
        spoof(1, "A02", reject="silent"),
    )
    assert warning(corpus) is None


def test_a_corpus_that_lost_everything_is_one_short_line(store: Folder):
    corpus = write(store, bonafide(3, problem="missing"), spoof(4, "A01", reject="silent"))
    assert warning(corpus) == "toy lost all 7 utterances (4 silent, 3 missing)"
    assert (
        warning(write(store, bonafide(1, problem="empty"), name="one"))
        == "one lost its only utterance (empty)"
    )


@pytest.mark.parametrize(
    ("number", "of", "max_loss", "is_named"),
    [
        (1, 3, 0.05, False),
        (2, 3, 0.05, False),
        (1, 1, 0.05, True),
        (3, 60, 0.05, False),
        (4, 60, 0.05, True),
        (59, 60, 1.0, False),
        (60, 60, 1.0, True),
        (1, 60, 0.0, True),
        (0, 60, 0.0, False),
        (0, 0, 0.0, False),
    ],
)
def test_a_class_is_named_if_it_lost_too_large_a_share_or_everything(number, of, max_loss, is_named):
    counts = ClassCounts("attack", "A07", of, of - number, 0, {"silent": number} if number else {})
    assert bool(severe_losses([counts], max_loss)) == is_named


def test_utterances_that_a_recipe_excludes_are_not_lost_and_do_not_hide_a_loss(store: Folder):
    corpus = write(
        store,
        bonafide(100),
        spoof(90, "A01"),
        spoof(96, "A07", problem="excluded-test"),
        spoof(4, "A07", reject="silent"),
    )
    assert warning(corpus) == "toy lost all 4 utterances of attack A07 (silent)"
    attack = next(counts for counts in corpus.losses if counts.name == "A07")
    assert (attack.found, attack.written, attack.excluded, attack.lost) == (100, 0, 96, 4)
    assert warning(write(store, bonafide(10), spoof(9, "A07", problem="excluded-test"), name="other")) is None


def test_files_without_a_class_are_no_loss_but_an_unknown_label_is(store: Folder):
    stray = [
        row
        for reason in (*losses.NOT_LOST, *losses.UNLISTED)
        for row in rows(50, None, problem=reason, language=None)
    ]
    corpus = write(store, bonafide(40), spoof(40, "A01"), stray)
    assert warning(corpus) is None
    unknown = rows(20, None, problem="unknown-label", language=None)
    corpus = write(store, bonafide(40), spoof(40, "A01"), stray, unknown, name="other")
    assert warning(corpus) == "other lost 20 of all 100 utterances, whose label is unknown (unknown-label)"
    unreadable = rows(5, None, problem="unreadable", language=None)
    assert warning(write(store, bonafide(99), unreadable, name="few")) is None
    assert warning(write(store, bonafide(90), unreadable, name="many")) == (
        "many lost 5 of all 95 utterances, whose label is unknown (unreadable)"
    )


def test_a_spelling_that_no_manifest_lists_is_a_class_that_is_gone(store: Folder):
    labels = rows(3, None, problem="unknown-label", language=None)
    corpus = write(store, bonafide(500), spoof(400, "A01"), spoof(3, "A02", problem="silent"), labels)
    assert warning(corpus) == (
        "toy lost all 3 utterances of attack A02 (silent); "
        "3 of all 906 utterances, whose label is unknown (unknown-label)"
    )
    attacks = rows(3, "spoof", problem="unknown-attack")
    corpus = write(store, bonafide(500), spoof(400, "A01"), attacks, name="attacks")
    assert warning(corpus) == "attacks lost 3 of all 903 utterances, whose attack is unknown (unknown-attack)"
    languages = bonafide(3, problem="unknown-language", language=None)
    corpus = write(store, bonafide(500), spoof(400, "A01"), languages, name="languages")
    assert (
        warning(corpus)
        == "languages lost 3 of all 903 utterances, whose language is unknown (unknown-language)"
    )
    assert warning(write(store, bonafide(99), labels[:2], name="two")) is None


def test_a_file_that_is_left_out_on_purpose_is_no_loss_even_if_its_class_is_known(store: Folder):
    repeated = [row for reason in losses.NOT_LOST for row in spoof(9, "A07", problem=reason)]
    assert warning(write(store, bonafide(9), spoof(9, "A01"), repeated)) is None
    unlisted = spoof(9, "A07", problem="unlisted")
    assert warning(write(store, bonafide(9), spoof(9, "A01"), unlisted, name="other")) == (
        "other lost all 9 utterances of attack A07 (unlisted); 9 of 18 spoof utterances (unlisted)"
    )


@pytest.mark.parametrize("dimension", losses.DIMENSIONS)
def test_the_counts_of_every_dimension_add_up(store: Folder, dimension: str):
    corpus = write(
        store,
        bonafide(50),
        bonafide(7, reject="silent", language=None),
        spoof(60, "A01", container="flac", codec="flac"),
        spoof(5, "A02", problem="missing"),
        rows(3, None, problem="unknown-label", language=None),
        rows(2, None, problem="stray", language=None),
        bonafide(4, problem="excluded-test"),
        rows(6, "spoof", reject="truncated"),
    )
    members = [counts for counts in corpus.losses if counts.dimension == dimension]
    assert all(counts.found == counts.written + counts.lost + counts.excluded for counts in members)
    totals = [
        sum(getattr(each, name) for each in members) for name in ("found", "written", "lost", "excluded")
    ]
    # Only spoofed utterances have attacks, and attacks without losses are not kept.
    assert totals == ([11, 0, 11, 0] if dimension == "attack" else [135, 110, 21, 4])
    if dimension == "tool":
        assert {counts.name: counts.found for counts in members} == {
            "flac": 60,
            "unknown": 12,
            "wav/pcm_16": 63,
        }


def test_counts_do_not_depend_on_the_size_of_the_batches(store: Folder, monkeypatch: pytest.MonkeyPatch):
    classes = [
        bonafide(90),
        spoof(90, "A01"),
        spoof(9, "A02", reject="silent"),
        spoof(9, "A03", problem="empty"),
    ]
    corpus = write(store, *classes)
    monkeypatch.setattr(losses, "BATCH_ROWS", 7)
    assert write(store, *classes) == corpus


def test_counts_that_do_not_add_up_are_an_error(store: Folder):
    corpus = write(store, bonafide(9), spoof(9, "A01"))
    with pytest.raises(AssertionError, match=r"toy: the counts by class .* do not add up to 19 found"):
        with_losses(store, replace(corpus, found=19), None)


def test_a_snapshot_remembers_its_losses_and_an_unchanged_corpus_is_not_counted_again(store: Folder):
    corpus = replace(write(store, bonafide(9), spoof(4, "A07", problem="silent")), not_audio={".txt": 3})
    snapshot = commit_snapshot(store, [corpus])
    assert latest_snapshot(store) == snapshot
    assert snapshot.corpora["toy"] == corpus
    Path(store.location(corpus.catalog)).unlink()
    assert with_losses(store, replace(corpus, losses=()), snapshot) == corpus
    with pytest.raises(FileNotFoundError):
        with_losses(store, replace(corpus, losses=()), None)


def test_a_snapshot_of_an_earlier_version_is_readable_and_keeps_its_digest(store: Folder):
    corpus = replace(write(store, bonafide(9), spoof(4, "A07", problem="silent")), not_audio={".txt": 3})
    commit_snapshot(store, [corpus])
    name = layout.snapshot_name("000001")
    document = json.loads(store.read(name))
    del document["corpora"]["toy"]["losses"], document["corpora"]["toy"]["not_audio"]
    store.commit(name, json.dumps(document).encode())
    old = load_snapshot(store)
    assert old.corpora["toy"] == replace(corpus, losses=(), not_audio={})
    assert old.digest == document["digest"]


def test_the_digest_of_a_snapshot_is_that_of_earlier_versions():
    corpus = CorpusSnapshot(
        "toy", "train", "", None, "", "catalog/toy/0.parquet", 1, {"silent": 1}, {}, {}, not_audio={".txt": 1}
    )
    snapshot = Snapshot(1, "2026-01-01T00:00:00+00:00", {"toy": corpus})
    assert snapshot.digest == "c3692ed4127a1d7f"


def test_a_snapshot_stays_small_whatever_the_number_of_attacks(store: Folder):
    many = [
        row
        for number in range(losses.MAX_CLASSES + 50)
        for row in spoof(1, f"A{number:05d}", problem="empty")
    ]
    corpus = write(store, bonafide(9), spoof(5, "B", problem="empty"), many, spoof(50, "C"))
    attacks = [counts.name for counts in corpus.losses if counts.dimension == "attack"]
    assert len(attacks) == losses.MAX_CLASSES
    assert attacks[0] == "A00000" and attacks[-1] == "B"
    line = warning(corpus)
    assert line is not None and len(line) < 800
    assert line.startswith(
        "toy lost all 5 utterances of attack B (empty); all 1 utterance of attack A00000 (empty)"
    )
    assert line.endswith("; 1055 of 1105 spoof utterances (empty); too many of 993 other classes")


def test_a_warning_is_one_line_whatever_the_class_is_called():
    counts = ClassCounts("attack", "A\r\n07", 4, 0, 0, {"silent": 4})
    line = loss_warning("toy", [ClassCounts("label", "spoof", 99, 95, 0, {"silent": 4}), counts])
    assert line == "toy lost all 4 utterances of attack A 07 (silent)"


def test_what_holds_for_a_whole_label_or_corpus_is_not_repeated_for_its_only_attack_and_language(
    store: Folder,
):
    corpus = write(store, bonafide(50), spoof(50, "A01"), spoof(50, "A01", reject="silent"))
    assert warning(corpus) == "toy lost 50 of 100 spoof utterances (silent)"


def test_rare_reasons_share_one_number():
    assert format_reasons({"silent": 2}) == "silent"
    assert format_reasons({"a": 1, "b": 9, "c": 9, "d": 2, "e": 1}) == "9 b, 9 c, 2 d, 2 other"
