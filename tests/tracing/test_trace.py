"""Tracing: the layer is chosen in the gallery, what is known is calibrated there, and confounding is measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import InputError
from pipeline.tracing.results import Results, Settings
from pipeline.tracing.roles import Selection, assign_roles
from pipeline.tracing.trace import Choice, trace
from tests.tracing.simulated import write_scores

SYSTEMS = ["A1", "A2", "A3", "A4", "A5"]
BOTH = Choice(["0", "1"], ["centred", "whitened"])


def value(rate: float | None) -> float:
    """A rate that could be measured."""
    assert rate is not None
    return rate


def run(gallery: str, new: str, choice: Choice = BOTH, selection: Selection | None = None) -> Results:
    return trace(assign_roles(gallery, new, selection or Selection()), choice, Settings())


def test_the_layer_that_tells_systems_is_chosen_and_unknown_systems_are_recognised(tmp_path: Path) -> None:
    gallery = write_scores(tmp_path / "gallery", SYSTEMS, num=60)
    new = write_scores(tmp_path / "new", [*SYSTEMS, "B1", "B2"], seed=1, num=30)
    results = run(gallery, new)
    assert [(each.layer, each.space) for each in results.candidates] == [
        ("0", "centred"),
        ("0", "whitened"),
        ("1", "centred"),
        ("1", "whitened"),
    ]
    best = results.best
    assert best.layer == "1"
    assert (
        value(best.gallery.macro_f1) > 0.9
        and value(best.new.macro_f1) > 0.9
        and value(best.new.neighbour_macro_f1) > 0.85
    )
    assert value(results.candidates[0].new.macro_f1) < 0.4, "nothing in layer 0 tells systems"
    assert value(best.new.auroc) > 0.8
    low, high = results.intervals["macro_f1"]
    assert low < value(best.new.macro_f1) < high
    assert results.num_new == {"known": 150, "unknown": 60, "bonafide": 0, "not_stated": 0}
    is_known = np.repeat([True, False], [150, 60])
    assert np.mean(results.traced.is_known == is_known) > 0.75, "calibrated without a look at new utterances"


def test_new_utterances_decide_nothing(tmp_path: Path) -> None:
    gallery = write_scores(tmp_path / "gallery", SYSTEMS)
    results = [
        run(gallery, write_scores(tmp_path / f"new{seed}", systems, seed=seed, num=20))
        for seed, systems in ((1, SYSTEMS), (2, ["B1", "B2"]))
    ]
    assert results[0].known_map == results[1].known_map
    assert results[0].chosen == results[1].chosen
    assert [each.gallery for each in results[0].candidates] == [
        each.gallery for each in results[1].candidates
    ]
    assert results[1].best.new.macro_f1 is None and results[1].best.new.auroc is None


def test_unlabelled_utterances_are_traced_and_nothing_is_measured(tmp_path: Path) -> None:
    gallery = write_scores(tmp_path / "gallery", SYSTEMS)
    roles = assign_roles(gallery, write_scores(tmp_path / "new", SYSTEMS, seed=1), Selection())
    new = roles.new
    unnamed = replace(new, systems=pa.nulls(len(new), pa.string()))
    results = trace(replace(roles, new=unnamed), BOTH, Settings())
    assert results.best.new[:7] == (None,) * 7 and not results.intervals
    assert results.num_new["not_stated"] == len(new) == len(results.traced.nearest)


def test_confounding_is_high_where_the_layer_tells_corpora_of_bona_fide_speech(tmp_path: Path) -> None:
    values = {}
    for distance in (0.0, 5.0):
        gallery = write_scores(
            tmp_path / f"gallery{distance}",
            SYSTEMS,
            num_bonafide=60,
            corpora=("calls", "books"),
            corpus_distance=distance,
        )
        new = write_scores(tmp_path / f"new{distance}", SYSTEMS, seed=1)
        values[distance] = run(gallery, new, Choice(["1"], ["whitened"])).best.confounding
    assert values[0.0] is not None and values[0.0] < 0.4
    assert values[5.0] is not None and values[5.0] > 0.9
    alone = write_scores(tmp_path / "alone", SYSTEMS, num_bonafide=60)
    assert run(alone, new, Choice(["1"], ["whitened"])).best.confounding is None


def test_with_two_systems_nothing_says_what_is_unknown_and_the_reason_is_told(tmp_path: Path) -> None:
    gallery = write_scores(tmp_path / "gallery", SYSTEMS[:2])
    results = run(gallery, write_scores(tmp_path / "new", SYSTEMS[:3], seed=1, num=20))
    assert results.known_map is None and results.traced.llr is None
    assert results.known_problem == "the gallery has fewer than three systems, so none can be left out"
    assert results.traced.is_known.all()
    assert results.best.new.auroc is not None, "it can still be measured"


def test_systems_that_are_far_apart_give_large_and_finite_likelihood_ratios(tmp_path: Path) -> None:
    gallery = write_scores(tmp_path / "gallery", SYSTEMS, distances={"1": 60.0}, speaker_distance=0.1)
    new = write_scores(
        tmp_path / "new", [*SYSTEMS, "B1"], distances={"1": 60.0}, speaker_distance=0.1, seed=1
    )
    results = run(gallery, new, Choice(["1"], ["centred"]))
    assert results.best.gallery.auroc == 1
    assert results.traced.llr is not None and np.isfinite(results.traced.llr).all()
    is_known = np.repeat([True, False], [200, 40])
    assert np.mean((results.traced.llr > 0) == is_known) > 0.95


def test_systems_are_counted_with_their_speakers_and_corpora(tmp_path: Path) -> None:
    gallery = write_scores(tmp_path / "gallery", SYSTEMS, num_speakers=4)
    new = write_scores(tmp_path / "new", SYSTEMS, num_speakers=4, first=1000)  # the same speakers
    results = run(gallery, new)
    assert [(each.name, each.num_utterances, each.corpora) for each in results.systems] == [
        (name, 40, ["calls"]) for name in SYSTEMS
    ]
    assert results.systems[0].num_clusters == 4 and not results.systems[0].is_alone
    assert results.num_shared_clusters == 4


def test_layers_that_are_not_there_or_say_nothing_are_refused(tmp_path: Path) -> None:
    gallery = write_scores(tmp_path / "gallery", SYSTEMS)
    new = write_scores(tmp_path / "new", SYSTEMS, seed=1, distances={"1": 6.0})
    with pytest.raises(InputError, match="new: has no embeddings of layer 0, only of 1"):
        run(gallery, new)
    equal = write_scores(tmp_path / "equal", SYSTEMS, distances={"1": 0.0}, noise=0.0)
    with pytest.raises(InputError, match="equal: all embeddings of layer 1 are equal"):
        run(equal, new, Choice(["1"], ["centred"]))
    broken = write_scores(tmp_path / "broken", SYSTEMS, distances={"1": np.inf})
    with pytest.raises(InputError, match="broken: some embeddings are not finite; score again"):
        run(broken, new, Choice(["1"], ["centred"]))


def test_joined_layers_are_compared_side_by_side(tmp_path: Path) -> None:
    distances = {"0": 2.0, "1": 2.0}
    gallery = write_scores(tmp_path / "gallery", SYSTEMS, num=80, distances=distances)
    new = write_scores(tmp_path / "new", SYSTEMS, seed=1, distances=distances)
    alone, _, joined = run(gallery, new, Choice(["0", "1", "0+1"], ["whitened"])).candidates
    assert value(joined.new.macro_f1) > value(alone.new.macro_f1) + 0.05
