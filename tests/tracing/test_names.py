"""Utterances are found by uid, path, the end of a path, id or file name, the most exact first."""

from __future__ import annotations

import pyarrow as pa

from pipeline.tracing.names import AMBIGUOUS, MISSING, Names

ROWS = pa.table(
    {
        "key": ["k0", "k1", "k2", "k3"],
        "id": ["A_1", "A_2", None, "k0"],
        "path": ["fake/en/vits/a.wav", "fake/de/vits/a.wav", "fake/de/tacotron/b.flac", "c/a.wav"],
    }
)


def test_an_utterance_is_found_by_its_most_exact_name() -> None:
    names = Names(ROWS)
    assert names.find(["k0", "A_2", "fake/de/tacotron/b.flac"]).tolist() == [0, 1, 2]
    assert names.find(["k0"]).tolist() == [0], "a uid counts before an id"


def test_a_path_may_begin_elsewhere_on_either_side() -> None:
    names = Names(ROWS)
    assert names.find(["./mlaad/fake/en/vits/a.wav", "de/vits/a.wav", "tacotron\\b.flac"]).tolist() == [
        0,
        1,
        2,
    ]
    assert names.find(["b"]).tolist() == [2], "a file name without its suffix"


def test_what_fits_several_or_none_is_not_guessed() -> None:
    assert Names(ROWS).find(["vits/a.wav", "a", "it/vits/x.wav", "", "x"]).tolist() == [
        AMBIGUOUS,
        AMBIGUOUS,
        MISSING,
        MISSING,
        MISSING,
    ]


def test_a_folder_names_all_that_is_below_it() -> None:
    names = Names(ROWS)
    assert names.below("de/").tolist() == [1, 2]
    assert names.below("fake/de/vits/").tolist() == [1]
    assert names.below("a.wav/").tolist() == []
    assert names.below("e/").tolist() == []
