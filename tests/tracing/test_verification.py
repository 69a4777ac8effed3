"""Trials: are two sets of utterances from one system? Lists of STOPA, pairs, folders, and likelihood ratios."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.tracing.results import Settings, Verification
from pipeline.tracing.roles import Selection, assign_roles
from pipeline.tracing.trace import Choice, trace
from pipeline.tracing.trials import read_trials
from tests.tracing.simulated import write_scores

SYSTEMS = [f"AA{each:02d}" for each in range(1, 11)]


def verify(folder: Path, trials: str, num_systems: int = 10) -> Verification:
    gallery = write_scores(folder / "gallery", SYSTEMS[:num_systems], distances={"1": 6.0})
    new = write_scores(folder / "new", [*SYSTEMS, "AA11", "AA12"], seed=1, num=12, distances={"1": 6.0})
    roles = assign_roles(gallery, new, Selection())
    results = trace(roles, Choice(["1"], ["whitened"]), Settings(), "", (read_trials(trials), trials))
    assert results.verification is not None
    return results.verification


def test_lists_of_stopa_are_measured_for_all_for_known_and_for_unknown_attacks(tmp_path: Path) -> None:
    lists = tmp_path / "trials"
    lists.mkdir()
    head = "FileName AbstractModel ATK IsTargetATK IsTargetAcousticModel IsTargetVocoderModel"
    for attack in ("AA01", "AA03"):
        lines = [head]
        for number, other in enumerate([*SYSTEMS, "AA11", "AA12"]):
            # Acoustic models are AA01 … AA06 and the rest; vocoders are odd and even numbers.
            same = other == attack, number < 6, number % 2 == (int(attack[2:]) - 1) % 2
            lines += [
                f"utt1_{number * 12 + row} {attack}-co-10 {other} {same[0]} {same[1]} {same[2]}"
                for row in range(12)
            ]
        (lists / f"{attack}-co-10_trials.txt").write_text(
            "\n".join([*lines, f"gone {attack} AA01 True True True", ""])
        )
    found = verify(tmp_path, str(lists))
    assert found.num_missing == 2 and len(found.rows) == 2 * (12 * 12 + 1)
    rates = {(each.target, each.group): each for each in found.rates}
    assert set(rates) == {
        (target, group)
        for target in ("attack", "acoustic_model", "vocoder")
        for group in ("all", "known", "unknown")
    }
    everything = rates["attack", "all"]
    assert (everything.num_same, everything.num_different) == (24, 2 * 11 * 12)
    # Trials of unknown attacks are compared with all targets.
    assert (rates["attack", "unknown"].num_same, rates["attack", "unknown"].num_different) == (24, 2 * 24)
    assert everything.eer is not None and everything.eer < 0.1
    vocoder = rates["vocoder", "all"].eer
    assert vocoder is not None and vocoder > 0.25, "nothing in these embeddings tells vocoders"
    assert everything.cllr is not None and everything.cllr < 0.5
    scores = found.rows["score"].to_numpy()
    assert np.nanmax(scores) <= 1.0001


def test_pairs_may_be_utterances_folders_and_systems(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(
        "first,second,same\n"
        "AA05/,system:AA05,true\n"
        "AA05/,AA06/,false\n"
        "AA11/,AA12/,false\n"
        "1-0,1-1,true\n"
        "system:AA02#1,new/AA02/1-12.wav,true\n"
        "1-0,nowhere,true\n"
        "1-0,system:AA02#ten,true\n"
    )
    found = verify(tmp_path, str(pairs))
    rows = found.rows.to_pylist()
    assert [row["score"] is None for row in rows] == [False] * 5 + [True] * 2
    assert rows[0]["llr"] > 2 and rows[1]["llr"] < -2 and rows[2]["llr"] < 0
    assert rows[0]["score"] > rows[3]["score"], "means of many utterances are nearer to each other"
    (rate,) = found.rates
    assert (rate.target, rate.group, rate.num_same, rate.num_different) == ("system", "all", 3, 2)
    assert found.num_missing == 2
    assert found.num_overlapping == 1, "the folder AA05 has utterances of the gallery, too"


@pytest.mark.parametrize(
    ("first", "second", "overlaps"),
    [
        ("1-0", "1-0", True),
        ("1-0", "1-1", False),
        ("AA05/", "new/AA05/1-50.wav", True),
        ("1-0", "AA05/", False),
        ("AA05/", "AA05/", True),
        ("AA05/", "system:AA05", True),
        ("AA05/", "AA06/", False),
        ("system:AA02#1", "system:AA02", True),
        ("system:AA02", "system:AA03", False),
        ("nowhere", "nowhere", False),
    ],
)
def test_trials_with_an_utterance_in_both_sets_are_counted(
    tmp_path: Path, first: str, second: str, overlaps: bool
) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"first,second\n{first},{second}\n{second},{first}\n1-2,1-3\n")
    assert verify(tmp_path, str(pairs)).num_overlapping == 2 * overlaps


def test_pairs_without_an_answer_are_scored_and_not_measured(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("first,second\n1-0,1-1\n")
    found = verify(tmp_path, str(pairs), num_systems=3)
    assert found.rates == []
    assert found.rows["llr"].null_count == 1, "three systems cannot be divided into two groups of two"
    assert found.rows["score"].null_count == 0


def test_what_is_no_list_of_trials_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.csv: does not exist; --trials is a file of trials"):
        read_trials(str(tmp_path / "none.csv"))
    with pytest.raises(InputError, match=r"has no lists such as AA01-co-100_trials\.txt"):
        read_trials(str(tmp_path))
    (tmp_path / "a.csv").write_text("one,two\n1,2\n")
    with pytest.raises(InputError, match="has no column first; its columns are one, two"):
        read_trials(str(tmp_path / "a.csv"))
    (tmp_path / "b.csv").write_text("first,second,same\n1,2,maybe\n")
    with pytest.raises(InputError, match=r"not a list of trials: .*maybe"):
        read_trials(str(tmp_path / "b.csv"))
    (tmp_path / "fingerprint.txt").write_text("FileName ATK\n1 2\n")
    with pytest.raises(
        InputError, match="because it states the attack and how many utterances its fingerprint has"
    ):
        read_trials(str(tmp_path / "fingerprint.txt"))
    pairs = tmp_path / "c.csv"
    pairs.write_text("first,second\nx,y\n")
    with pytest.raises(InputError, match="no trial has embeddings of both sides; the first is 'x'"):
        verify(tmp_path, str(pairs))
