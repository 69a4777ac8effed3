"""The picture of embeddings in a report: which utterances it shows, what it warns of, and what is written."""

import json
import re

import numpy as np
import pytest

from pipeline.evaluation.embedded_points import sample_evenly
from pipeline.evaluation.files import to_files
from pipeline.evaluation.measure import POOLED, Settings
from pipeline.evaluation.mlflow_runs import corpus_metrics
from pipeline.evaluation.page import to_page
from pipeline.evaluation.results import to_table
from tests.evaluation.simulated import results_of, write_embeddings, write_system

SETTINGS = Settings(num_bootstrap=20)


def write(folder, *, label: float = 0.0, corpus: float = 0.0, seed: int = 0, left_out: int = 0, **embedded):
    """Write 60 utterances of each of two corpora, with embeddings."""
    write_system(folder, system=folder.name, seed=seed, num_utterances=60, left_out=left_out)
    return write_embeddings(folder, label=label, corpus=corpus, **embedded)


def points_in(html: str) -> list[str]:
    """The texts of the points of a page."""
    return re.findall(r'<g class="a\d b\d c\d d\d(?: t)?"><title>(.*?)</title>', html, re.DOTALL)


def test_two_systems_show_the_same_utterances_each_once_and_in_all_panels(tmp_path):
    results = results_of(
        write(tmp_path / "untrained", corpus=3), write(tmp_path / "trained", label=4), settings=SETTINGS
    )
    html = to_page(results).to_html()
    texts = points_in(html)
    uids = {uid for scores in results.score_sets for uid in scores.utterances.uids.to_pylist()}
    assert sorted(text.split(" · ")[1] for text in texts) == sorted(uids)
    assert all(
        re.search(r"untrained: score -?\d+\.\d\d\ntrained: score -?\d+\.\d\d$", text) for text in texts
    )
    assert len(re.findall(r'<path d="M\d+ \d+[^"]*"/>', html)) == 4 * len(texts)
    assert html.count('<input type="radio"') == 4
    for word in ("another perplexity gives another picture", "principal components", "spoof · A01 · tts"):
        assert word in html


def test_the_same_scores_give_the_same_page_and_the_labels_of_points_are_true(tmp_path):
    folder = write(tmp_path / "tiny", label=2)
    pages = [to_page(results_of(folder, settings=SETTINGS)).to_html() for _ in range(2)]
    assert pages[0] == pages[1]
    utterances = results_of(folder, settings=SETTINGS).score_sets[0].utterances
    is_bonafide = dict(zip(utterances.uids.to_pylist(), utterances.is_bonafide.tolist(), strict=True))
    for text in points_in(pages[0]):
        first, second, _ = text.split("\n")
        assert second.startswith("bona fide" if is_bonafide[first.split(" · ")[1]] else "spoof")


def test_embeddings_that_tell_the_corpus_rather_than_the_label_are_a_warning(tmp_path):
    folders = [write(tmp_path / "room", corpus=3, label=0.5), write(tmp_path / "spoof", corpus=0.5, label=4)]
    results = results_of(*folders, settings=SETTINGS)
    (warning,) = (each for each in results.warnings if "embeddings" in each)
    assert warning.startswith("room: its embeddings tell the corpus better than the label")
    html = to_page(results).to_html()
    assert html.count("tell the corpus better") == 1
    assert json.loads(to_files(results)["metrics.json"])["warnings"] == results.warnings


def test_embeddings_that_know_nothing_are_no_warning(tmp_path):
    results = results_of(write(tmp_path / "noise"), settings=SETTINGS)
    assert not [each for each in results.warnings if "embeddings" in each]


def test_purities_are_in_all_files_and_sent_to_mlflow(tmp_path):
    folder = write(tmp_path / "tiny", label=5, layers=["4"])
    results = results_of(folder, settings=Settings(num_bootstrap=20, layer="4"))
    measured = json.loads(to_files(results)["metrics.json"])["metrics"]["tiny"][POOLED]["embeddings"]["4"]
    assert (measured["num_bonafide"], measured["num_spoof"]) == (60, 60)
    assert measured["label_purity_low"] <= measured["label_purity"] <= measured["label_purity_high"]
    assert measured["label_purity"] > 0.9 and measured["label_purity_corrected"] > 0.8
    assert measured["corpus_purity"] == pytest.approx(measured["corpus_purity_chance"], abs=0.1)
    table = to_table(results.measurements.values())
    rows = {row["metric"]: row for row in table.to_pylist() if row["group"] == "embeddings"}
    assert rows["label_purity"]["value"] == measured["label_purity"]
    assert (rows["label_purity"]["key"], rows["label_purity"]["corpus"]) == ("4", POOLED)
    assert corpus_metrics(results, "tiny")["label_purity_corrected/4"] == measured["label_purity_corrected"]


def test_one_corpus_has_no_purity_by_corpus(tmp_path):
    folder = write_system(tmp_path / "tiny", corpora=["alpha"], num_utterances=60)
    results = results_of(write_embeddings(folder, label=3), settings=SETTINGS)
    metrics = results.measurements["tiny", POOLED, "embeddings", "head"].metrics
    assert metrics["corpus_purity"] is None and metrics["label_purity"] is not None
    assert "There is only one corpus here." in to_page(results).to_html()


def test_systems_without_embeddings_are_named_and_shared_utterances_are_shown(tmp_path):
    bare = write_system(tmp_path / "bare", system="bare", num_utterances=60)
    some = write(tmp_path / "some", num=40, broken=3)
    less = write(tmp_path / "less", left_out=10)
    results = results_of(bare, some, less, settings=SETTINGS)
    html = to_page(results).to_html()
    assert "bare has no embeddings of layer head, so it is not shown." in html
    assert "some: 6 embeddings are not finite and are left out." in html
    assert "different utterances (some: 74, less: 100); shown are the 60 of which all have one." in html
    assert len(points_in(html)) == 60
    assert [each.system for each in results.picture.projections] == ["some", "less"]
    assert "The perplexity is 19.67 instead of 30" in html


def test_too_few_points_are_a_sentence_in_place_of_a_picture(tmp_path):
    for num in (4, 0):
        results = results_of(write(tmp_path / f"{num}", num=num), settings=SETTINGS)
        html = to_page(results).to_html()
        assert f"A picture needs 10 labelled utterances with embeddings; there are {2 * num}." in html
        assert not points_in(html)
        assert not [each for each in results.measurements.values() if each.group == "embeddings"]


def test_scores_without_embeddings_have_no_section(tmp_path):
    html = to_page(results_of(write_system(tmp_path / "bare"), settings=SETTINGS)).to_html()
    assert "<h2>Embeddings</h2>" not in html


def test_a_sample_is_even_and_keeps_its_points_when_it_grows(tmp_path):
    folder = write(tmp_path / "tiny", label=3)
    chosen = {}
    for max_points in (16, 40):
        results = results_of(folder, settings=Settings(num_bootstrap=20, max_points=max_points))
        html = to_page(results).to_html()
        assert f"Shown are {max_points} of 120 utterances" in html
        texts = points_in(html)
        chosen[max_points] = {re.sub(r"\n.*", "", text, flags=re.DOTALL) for text in texts}
        kinds = [(text.split()[0], text.split("\n")[1]) for text in texts]
        assert len(kinds) == max_points
    assert chosen[16] < chosen[40]


def test_groups_get_equal_shares_until_they_are_used_up():
    hashes = np.random.default_rng(0).permutation(100).astype(np.uint64)
    group = np.repeat([0, 1, 2], (5, 15, 80))
    chosen = sample_evenly(hashes, group, 35)
    assert np.bincount(group[chosen]).tolist() == [5, 15, 15]
    assert (np.diff(hashes[chosen].astype(int)) > 0).all()
    assert len(sample_evenly(hashes, group, 2)) == 2
    assert np.array_equal(np.sort(sample_evenly(hashes, group, 1000)), np.arange(100))


def test_texts_of_utterances_are_escaped(tmp_path):
    hostile = "<script>alert('x')</script>"
    folder = write_system(tmp_path / "tiny", num_utterances=20, corpora=[hostile, "beta"])
    html = to_page(results_of(write_embeddings(folder), settings=SETTINGS)).to_html()
    assert len(points_in(html)) == 40 and "<script" not in html
