"""The corpus card: counts, warnings, formatting and escaping."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import tables
from pipeline.card.formatting import format_hour_columns, format_hours, format_not_audio
from pipeline.card.losses import NUM_CLASSES
from pipeline.card.page import corpus_card
from pipeline.card.rejects import NUM_EXAMPLES, find_examples
from pipeline.card.shortcut import find_shortcuts
from pipeline.card.shortcut_section import MAX_PREDICTIVE_CHARTS
from pipeline.card.tally import SHARDS_PER_BATCH, duration_bin_edge, tally_snapshot
from pipeline.data.store.layout import index_name
from pipeline.data.store.losses import ClassCounts
from pipeline.data.store.regions import RegionSummary
from pipeline.data.store.shard_tables import REJECTS
from pipeline.data.store.snapshot import choose_corpora, commit_snapshot
from pipeline.report import Cell
from pipeline.storage import Folder
from tests.card.stores import FLAC, MP3, Row, problems, put, snapshot_of, utterances, words_of, write_corpus

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "store"))


def random_rows(number: int) -> list[Row]:
    generator = np.random.default_rng(number)

    def choose(values: list[Any]) -> Any:
        return values[generator.integers(len(values))]

    return [
        utterances(
            1,
            choose(["bonafide", "spoof"]),
            seconds=float(np.float32(generator.uniform(0.1, 30))),
            language=choose(["en", "de", None]),
            split=choose(["train", "test", None]),
            **(FLAC if generator.random() < 0.5 else MP3),
        )[0]
        for _ in range(number)
    ]


def test_counts_over_many_shards_equal_those_of_a_plain_loop(store):
    shards = [random_rows(number % 7) for number in range(SHARDS_PER_BATCH + 10)]
    counted = tally_snapshot(store, snapshot_of(write_corpus(store, "c", shards)))
    hours: dict[tuple[Any, ...], float] = defaultdict(float)
    chains: dict[tuple[Any, ...], int] = defaultdict(int)
    for row in (row for shard in shards for row in shard):
        hours[row["label"], row["language"], row["split"]] += row["seconds"] / 3600
        chains[row["codec"], row["bit_depth"], row["num_channels"]] += 1
    assert counted.content.hours("label", "language", "split") == pytest.approx(dict(hours))
    assert counted.chain.utterances("codec", "bit_depth", "num_channels") == chains


def test_measured_bandwidths_are_counted_in_steps(store):
    measured = [None, 0.0, 249.0, 250.0, 3125.0, 3249.9, 7999.0, 8000.0]
    rows = [row for bandwidth in measured for row in utterances(1, "spoof", bandwidth_hz=bandwidth)]
    counted = tally_snapshot(store, snapshot_of(write_corpus(store, "c", [rows])))
    expected = {0: 2, 250: 1, 3000: 2, 7750: 1, 8000: 1, None: 1}
    assert counted.bandwidths.utterances("bandwidth") == {(key,): count for key, count in expected.items()}


def test_spoofs_that_were_low_passed_in_16_khz_files_stand_out(store):
    rows = [*utterances(100, "bonafide", bandwidth_hz=8000.0), *utterances(100, "spoof", bandwidth_hz=3125.0)]
    text = words_of(store, write_corpus(store, "muffled", [rows]))
    assert "Traits with an EER of 10.0 % or less: bandwidth in muffled." in text
    assert "muffled bandwidth 0.0 8 kHz (100.0 %) 3 kHz (100.0 %)" in text


def test_a_bandwidth_that_was_never_measured_is_not_guessed(store):
    rows = [
        *utterances(50, "bonafide", sample_rate=48_000, bandwidth_hz=None),
        *utterances(50, "spoof", sample_rate=8_000, bandwidth_hz=None),
    ]
    older = write_corpus(store, "older", [rows])
    measured = write_corpus(
        store, "measured", [both_labels(bandwidth_hz=7750.0), utterances(1, "spoof", bandwidth_hz=None)]
    )
    snapshot = snapshot_of(older, measured)
    shortcuts = find_shortcuts(tally_snapshot(store, snapshot), snapshot)
    assert {each.group for each in shortcuts if each.trait.title == "bandwidth"} == {
        "measured",
        "all train corpora",
    }
    assert "left out of that column: measured (1 of 3 utterances), older (all utterances)." in words_of(
        store, older, measured
    )


def test_the_card_of_a_store_whose_indexes_lack_the_bandwidth_says_so(store):
    corpus = write_corpus(store, "older", [[*utterances(3, "bonafide"), *utterances(3, "spoof")]])
    name = index_name("older", "older-0")
    put(store, name, tables.to_parquet(tables.read_table(store, name).drop_columns("bandwidth_hz")))
    assert "left out of that column: older (all utterances)." in words_of(store, corpus)


def test_bit_rates_are_counted_in_the_nearest_bin(store):
    rates = [None, 0, 1_000, 63_000, 66_000, 128_000, 9_999_000]
    rows = [row for rate in rates for row in utterances(1, "spoof", bitrate=rate)]
    counted = tally_snapshot(store, snapshot_of(write_corpus(store, "c", [rows])))
    assert list(counted.bitrates.utterances("bitrate_bin").values()) == [2, 1, 2, 1, 1]


@pytest.mark.parametrize("seconds", [0.5, 3.0, 4.0, 3600.0])
def test_a_duration_is_between_the_edges_of_its_bin(store, seconds):
    counted = tally_snapshot(
        store, snapshot_of(write_corpus(store, "c", [utterances(1, "spoof", seconds=seconds)]))
    )
    ((duration_bin,),) = counted.durations.utterances("duration_bin")
    assert duration_bin_edge(duration_bin) <= seconds < duration_bin_edge(duration_bin + 1)


def test_a_codec_that_predicts_the_label_causes_a_warning(store):
    rows = [*utterances(100, "bonafide", **MP3), *utterances(97, "spoof"), *utterances(3, "spoof", **MP3)]
    text = words_of(store, write_corpus(store, "uneven", [rows]))
    assert "Labels predictable without listening: uneven. See Label shortcuts." in text
    assert "Traits with an EER of 10.0 % or less: codec in uneven." in text
    assert "uneven codec 2.9 mp3 (100.0 %) flac (97.0 %), mp3 (3.0 %)" in text
    assert "uneven bona fide mp3 44.1 kHz stereo" in text
    assert "uneven spoof flac 97 %, mp3 3 %" in text


def test_equal_signal_chains_cause_no_warning(store):
    rows = [*utterances(50, "bonafide"), *utterances(500, "spoof")]
    text = words_of(store, write_corpus(store, "even", [rows]))
    assert "predictable" not in text
    assert "No trait has an EER of 10.0 % or less, beyond chance." in text


def test_corpora_with_one_label_each_are_only_compared_with_each_other(store):
    corpora = [
        write_corpus(store, "speech", [utterances(60, "bonafide", **MP3)]),
        write_corpus(store, "vocoded", [utterances(40, "spoof")]),
    ]
    shortcuts = find_shortcuts(tally_snapshot(store, snapshot_of(*corpora)), snapshot_of(*corpora))
    assert {shortcut.group for shortcut in shortcuts} == {"all train corpora"}
    rates = {shortcut.trait.title: shortcut.eer for shortcut in shortcuts}
    assert rates["codec"] == rates["corpus"] == 0.0
    assert rates["duration"] == rates["language"] == 0.5
    assert "the corpus has only one label: speech, vocoded." in words_of(store, *corpora)


def test_training_and_evaluation_corpora_are_measured_separately(store):
    rows = [*utterances(5, "bonafide"), *utterances(5, "spoof")]
    roles = {"a": "train", "b": "train", "c": "evaluation"}
    corpora = [write_corpus(store, name, [rows], role=role) for name, role in roles.items()]
    shortcuts = find_shortcuts(tally_snapshot(store, snapshot_of(*corpora)), snapshot_of(*corpora))
    assert {shortcut.group for shortcut in shortcuts} == {"a", "b", "c", "all train corpora"}


def test_rejects_are_listed_with_reasons_and_files_from_the_catalog_and_the_shards(store):
    broken = [
        dict.fromkeys(REJECTS.names) | {"path": "cut.flac", "reason": "truncated", "detail": "ends early"}
    ]
    corpus = write_corpus(
        store, "c", [utterances(2, "spoof")], found=problems(NUM_EXAMPLES + 9, "stray"), rejects=broken
    )
    examples = find_examples(store, snapshot_of(corpus))
    assert [path for path, _ in examples["c", "stray"]] == [f"{i}/x.wav" for i in range(NUM_EXAMPLES)]
    assert examples["c", "truncated"] == [("cut.flac", "ends early")]
    text = words_of(store, corpus)
    assert "ends early: cut.flac" in text
    assert "rejected stray 12 80.0 % no row: 0/x.wav, 1/x.wav, 2/x.wav" in text


LOSSES = (
    ClassCounts("label", "bonafide", 100, 99, 0, {"silent": 1}),
    ClassCounts("label", "spoof", 54, 40, 10, {"truncated": 4}),
    ClassCounts("attack", "A07", 4, 0, 0, {"truncated": 4}),
    ClassCounts("language", "en", 154, 139, 10, {"silent": 1, "truncated": 4}),
    ClassCounts("tool", "flac", 140, 139, 0, {"silent": 1}),
    ClassCounts("tool", "unknown", 14, 0, 10, {"truncated": 4}),
)


def test_a_class_that_lost_too_much_is_named_at_the_top_and_in_the_section_about_rejects(store):
    found = [*problems(4, "truncated"), *problems(1, "silent")]
    corpus = write_corpus(store, "c", [utterances(2, "spoof")], found=found, losses=LOSSES)
    text = words_of(store, corpus)
    line = "c lost all 4 utterances of attack A07 (truncated); 4 of 44 spoof utterances (truncated)."
    assert text.index(f"{line} See Rejects.") < text.rindex(line) < text.index("Losses by class")
    assert text.index("Losses by class") < text.index("Rejects by corpus and reason")
    for row in (
        "c bona fide 100 99 1 1.0 % silent",
        "c spoof 54 40 4 9.1 % truncated",
        "c attack A07 4 0 4 100.0 % truncated",
        "c tool unknown 14 0 4 2.8 % truncated",
        "c language en 154 139 5 3.5 % 4 truncated, 1 silent",
    ):
        assert row in text
    lenient = corpus_card(store, snapshot_of(corpus), max_loss=0.1).to_html()
    assert "c lost all 4 utterances of attack A07 (truncated). See Rejects." in lenient
    assert "4 of 44 spoof" not in lenient


def test_a_corpus_without_losses_by_class_shows_none(store):
    lossless = tuple(replace(counts, written=counts.found, reasons={}) for counts in LOSSES[:2])
    text = words_of(store, write_corpus(store, "c", [utterances(2, "spoof")], losses=lossless))
    assert "Losses by class" not in text
    assert "lost too much" not in text


def test_losses_that_an_older_snapshot_did_not_record_are_not_guessed(store):
    text = words_of(
        store, write_corpus(store, "older", [utterances(2, "spoof")], found=problems(3, "silent"))
    )
    assert "Losses by class are not recorded for older; the next ingest will count them." in text


def test_the_table_of_losses_stays_short_whatever_the_number_of_attacks(store):
    attacks = [
        ClassCounts("attack", f"A{number}", 9, 9 - number % 9, 0, {"empty": number % 9})
        for number in range(99)
    ]
    corpus = write_corpus(store, "c", [utterances(2, "spoof")], losses=(*LOSSES, *attacks))
    text = words_of(store, corpus)
    assert "other classes with smaller losses are not shown." in text
    assert text.count(" empty ") <= NUM_CLASSES


def test_files_that_are_not_audio_are_counted_by_kind(store):
    kinds = {".txt": 8, ".json": 1, "hidden": 1203}
    text = words_of(store, write_corpus(store, "c", [utterances(2, "spoof")], not_audio=kinds))
    assert "c: 1,212 files are not audio: 1,203 hidden, 8 .txt, 1 .json." in text
    assert format_not_audio({".txt": 1}) == "1 file is not audio: 1 .txt"


def test_utterances_excluded_by_a_recipe_are_not_rejects(store):
    corpus = write_corpus(store, "c", [utterances(2, "spoof")], found=problems(4, "excluded-test"))
    corpus = replace(corpus, rejected={}, excluded={"excluded-test": 4})
    text = words_of(store, corpus)
    assert "Nothing was rejected." in text
    assert "excluded excluded-test 4 66.7 %" in text
    assert "accounted for" not in text


def test_an_utterance_that_is_not_accounted_for_causes_a_warning(store):
    corpus = write_corpus(store, "c", [utterances(2, "spoof")])
    assert "accounted for" not in words_of(store, corpus)
    assert "c: 3 found, but 2 accounted for." in words_of(store, replace(corpus, found=3))


@pytest.mark.parametrize(
    ("published", "is_warned"), [(1.0, False), (1.009, False), (1.02, True), (0.98, True)]
)
def test_hours_that_differ_by_more_than_one_percent_cause_a_warning(store, published, is_warned):
    rows = utterances(1200, "bonafide")  # 3 s each: one hour
    corpus = write_corpus(store, "c", [rows], expected_hours={"bonafide": published, "spoof": 0.0})
    assert ("Hours differ from the published hours: c." in words_of(store, corpus)) == is_warned


def test_duplicates_are_listed_with_their_corpora_and_splits_and_cause_warnings(store):
    rows_of = {
        "asv": ("train", utterances(1, "bonafide", id="a", pcm_sha256="1" * 64)),
        "decro": ("train", utterances(1, "spoof", id="b", pcm_sha256="1" * 64, split=None)),
        "wild": ("evaluation", utterances(1, "spoof", id="c", pcm_sha256="1" * 64)),
        "apart": ("train", utterances(1, "spoof", id="d", pcm_sha256="2" * 64)),
    }
    corpora = [write_corpus(store, name, [rows], role=role) for name, (role, rows) in rows_of.items()]
    snapshot = commit_snapshot(store, corpora)
    html = corpus_card(store, snapshot).to_html()
    assert "Duplicated recordings with both labels: 1, for example a = b = c." in html
    assert "in both training and evaluation" in html
    assert "in several splits" not in html
    assert "asv/train + decro/not stated + wild/train" in html
    assert "2 utterances" in html
    alone = corpus_card(store, choose_corpora(snapshot, ["wild", "apart"])).to_html()
    assert "No two utterances have identical samples." in alone


def test_recordings_for_augmentation_are_shown_apart_and_counted_nowhere_else(store):
    speech = write_corpus(store, "asv", [utterances(1200, "bonafide")])
    recordings = write_corpus(
        store,
        "musan",
        [utterances(1200, "noise") + utterances(2400, "speech")],
        role="augmentation",
        licence="CC-BY-NC-4.0",
        non_commercial=True,
    )
    text = words_of(store, speech, recordings)
    assert "musan noise 1,200 1.00 musan speech, for babble 2,400 2.00" in text
    assert "corpora 1 1 shards" in text
    assert "Non-commercial use only" not in text
    alone = words_of(store, recordings)
    assert "musan noise 1,200 1.00" in alone
    assert "Overview" not in alone


def test_non_commercial_and_unknown_licences_cause_warnings(store):
    rows = utterances(1200, "bonafide")
    corpora = [
        write_corpus(store, "free", [rows]),
        write_corpus(store, "academic", [rows], licence="CC-BY-NC-4.0", non_commercial=True),
        write_corpus(store, "silent", [rows], licence="unknown", non_commercial=None),
    ]
    text = words_of(store, *corpora)
    assert "CC-BY-4.0 allowed 1.00 33.3 % free" in text
    assert "CC-BY-NC-4.0 non-commercial only 1.00 33.3 % academic" in text
    assert "Non-commercial use only: academic." in text
    assert "Unknown licence: silent." in text


def test_rare_languages_share_a_bar_but_all_are_in_the_table(store):
    rows = [row for i in range(30) for row in utterances(1 + (i < 20), "spoof", language=f"l{i}")]
    text = words_of(store, write_corpus(store, "c", [rows]))
    assert "10 others" in text
    assert all(f" l{i} " in text for i in range(30))


def test_names_from_corpora_are_escaped(store):
    rows = [
        *utterances(3, "bonafide", language=HOSTILE, codec=HOSTILE),
        *utterances(3, "spoof", artifact=HOSTILE, split=HOSTILE),
    ]
    corpus = write_corpus(
        store, "c", [rows], found=problems(2, HOSTILE, HOSTILE), licence=HOSTILE, excluded={HOSTILE: 0}
    )
    html = corpus_card(store, snapshot_of(corpus)).to_html()
    assert "<script" not in html
    assert html.count("&lt;script&gt;") > 10


def test_equal_snapshots_in_different_folders_give_equal_bytes(tmp_path):
    cards = []
    for name in ("one", "other"):
        store = Folder(str(tmp_path / name))
        corpora = [write_corpus(store, name, [random_rows(30) for _ in range(9)]) for name in ("a", "b")]
        cards.append(corpus_card(store, snapshot_of(*corpora)).to_html())
    assert cards[0] == cards[1]
    assert str(tmp_path) not in cards[0]


def test_a_corpus_without_written_utterances_has_a_card(store):
    text = words_of(store, write_corpus(store, "lost", [[]], found=problems(3, "empty")))
    assert "empty 3 100.0 %" in text
    assert "only one label" not in text


def test_hours_are_shown_with_a_suitable_unit_and_precision():
    formatted = [format_hours(hours) for hours in (50_558.1, 35.18, 1.5, 0.5, 0.01, 0.0)]
    assert formatted == ["50,558 h", "35.2 h", "1.50 h", "30.0 min", "36 s", "0 s"]
    assert format_hour_columns([["a", 0.0123], ["b", 0.00001], ["c", None]], 1) == [
        ["a", Cell("0.0123")],
        ["b", Cell("< 0.0001")],
        ["c", None],
    ]
    assert format_hour_columns([["a", 1200.0], ["b", 0.0123]], 1) == [
        ["a", Cell("1,200.00")],
        ["b", Cell("0.01")],
    ]


def test_numeric_traits_are_sorted_by_value_and_others_by_frequency(store):
    rows = [row for rate in (48_000, 8_000, 8_000, 16_000) for row in both_labels(sample_rate=rate)]
    rows += both_labels(**MP3)
    html = corpus_card(store, snapshot_of(write_corpus(store, "c", [rows]))).to_html()
    rates = html[html.index("sample rate · c") :]
    assert rates.index("8 kHz") < rates.index("16 kHz") < rates.index("44.1 kHz") < rates.index("48 kHz")
    codecs = html[html.index("codec · c") :]
    assert codecs.index("flac") < codecs.index("mp3")


def both_labels(**columns: Any) -> list[Row]:
    return [*utterances(1, "bonafide", **columns), *utterances(1, "spoof", **columns)]


def test_a_card_of_36_corpora_is_one_self_contained_file_below_500_kb(store):
    rows = [*utterances(40, "bonafide", **MP3), *utterances(40, "spoof")]
    corpora = [
        write_corpus(
            store,
            f"corpus_{number:02d}",
            [[row | {"language": f"l{(number + i) % 110}"} for i, row in enumerate(rows)]],
            role="train" if number < 30 else "evaluation",
            licence=f"licence {number % 9}",
            expected_hours={"bonafide": 500.0},
            found=problems(4, f"reason {number % 11}"),
        )
        for number in range(36)
    ]
    html = corpus_card(store, snapshot_of(*corpora)).to_html()
    assert "://" not in html, "the page links to another resource"
    assert len(html) < 500_000
    assert html.count('class="warning"') < 12
    assert html.count("<figcaption>codec · corpus_") == MAX_PREDICTIVE_CHARTS
    assert all(html.count(f">corpus_{number:02d}<") > 8 for number in range(36))
    assert all(f">l{number}<" in html for number in range(110))


def test_labelled_regions_are_shown_by_label_with_what_does_not_fit(store):
    examples = {
        "no-regions": "eval/a.wav",
        "overlap": "vad/eval/b.vad:2: 1 to 2 s overlaps",
        "empty": HOSTILE,
    }
    problems = {"no-regions": 1200, "overlap": 1, "empty": 3}
    known = RegionSummary("0" * 16, 1500, {"bonafide": 7200.0, "spoof": 3600.0}, problems, examples)
    lost = RegionSummary("1" * 16, 0, {}, {"no-files": 0}, {"no-files": "there is no vad/{utterance}.vad"})
    corpora = [
        write_corpus(store, name, [both_labels()], regions=regions)
        for name, regions in (("known", known), ("lost", lost), ("plain", None))
    ]
    text = words_of(store, *corpora)
    section = text.partition("Labelled regions These corpora")[2].partition(" Duplicates ")[0]
    assert "bona fide h spoof h non-speech h known 2 1,500 2.00 1.00 – lost 2 0 – – – " in section
    assert "known no-regions 1,200 eval/a.wav known overlap 1 vad/eval/b.vad:2: 1 to 2 s overlaps" in section
    assert f"known empty 3 {HOSTILE} lost no-files – there is no vad/" in section
    assert "plain" not in section
    assert "No utterance with labelled regions: lost. See Labelled regions." in text
    assert "Labelled regions" not in words_of(store, corpora[2])
