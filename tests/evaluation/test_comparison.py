"""Comparison of systems on the utterances that all of them scored, and claims about them."""

import pytest

from pipeline.data.corpora.manifest import load_manifests
from pipeline.detector.variants import VARIANTS
from pipeline.errors import InputError
from pipeline.evaluation.claims import check_claims, load_claims, read_claims
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.measure import MEAN, POOLED, Settings
from pipeline.evaluation.page import to_page
from pipeline.evaluation.results import Results
from tests.evaluation.simulated import results_of, write_system


def comparison_of(results: Results, corpus: str = "alpha") -> Comparison:
    (found,) = [each for each in results.comparisons if each.corpus == corpus]
    return found


def test_a_better_system_is_named_and_equal_ones_cannot_be_told_apart(tmp_path):
    good, bad, equal = (
        write_system(tmp_path / name, system=name, skill=skill, seed=seed)
        for seed, (name, skill) in enumerate([("good", 2.0), ("bad", 1.0), ("equal", 2.0)])
    )
    better = comparison_of(results_of(good, bad))
    assert better.in_words() == "good is better"
    assert better.differences["eer"].value < better.differences["eer"].interval.high < 0
    same = comparison_of(results_of(good, equal))
    assert same.in_words() == "cannot tell apart"
    assert same.differences["eer"].interval.low < 0 < same.differences["eer"].interval.high
    assert better.permutation_p_value is not None and same.permutation_p_value is not None
    assert better.permutation_p_value < 0.05 < same.permutation_p_value


def test_every_pair_is_compared_on_every_corpus_the_mean_and_all_utterances(tmp_path):
    folders = [write_system(tmp_path / name, system=name, seed=seed) for seed, name in enumerate("abc")]
    results = results_of(*folders, settings=Settings(num_bootstrap=20))
    pairs = {(each.corpus, each.first, each.second) for each in results.comparisons}
    assert len(pairs) == len(results.comparisons) == 4 * 3
    assert {corpus for corpus, _, _ in pairs} == {"alpha", "beta", MEAN, POOLED}


def test_a_system_equals_itself_exactly(tmp_path):
    folders = [write_system(tmp_path / name, system=name) for name in ("one", "two")]
    same = comparison_of(results_of(*folders), POOLED)
    assert all(each.value == 0 and each.p_value == 1 for each in same.differences.values())


def test_pooled_utterances_are_resampled_alike_for_a_system_that_scored_one_corpus_only(tmp_path):
    both = [write_system(tmp_path / name, system=name) for name in ("one", "two")]
    alone = write_system(tmp_path / "alone", system="alone", corpora=["alpha"])
    comparisons = results_of(*both, alone).comparisons
    pooled = [each for each in comparisons if each.corpus == POOLED]
    assert len(pooled) == 3
    # The same scores on the shared utterances: any difference of a resample would be one of its weights.
    assert all(each.differences["eer"].interval == (0, 0) for each in pooled)


@pytest.mark.parametrize("kind", ["auto", "utterance"])
def test_systems_are_compared_on_shared_utterances_alone(tmp_path, kind):
    one = write_system(tmp_path / "one", system="one")
    two = write_system(tmp_path / "two", system="two", left_out=100)
    results = results_of(one, two, settings=Settings(num_bootstrap=50, clusters=kind))
    shared = comparison_of(results)
    assert (shared.num_bonafide, shared.num_spoof) == (250, 250)
    # The same scores on the same utterances: nothing differs, although the EERs of the two sets do.
    assert all(each.value == 0 and each.p_value == 1 for each in shared.differences.values())
    assert any("different utterances: alpha (600 and 500, 500 shared)" in text for text in results.warnings)


def test_another_protocol_is_not_called_a_better_system(tmp_path):
    whole = write_system(tmp_path / "whole", system="whole", seed=1)
    window = write_system(
        tmp_path / "window",
        system="window",
        seed=1,
        skill=1,
        weights_digest=f"{1:016x}",
        policy="window:4:first",
    )
    results = results_of(whole, window)
    assert comparison_of(results).in_words() == "whole has the lower EER, by another protocol"
    assert any(
        "have the same weights, so every difference between them is one of protocol" in w
        for w in results.warnings
    )
    claim = "[[claim]]\nmetric = 'eer'\ncorpus = 'alpha'\nbetter = ['whole', 'window']"
    (verdict,) = check_claims(read_claims(claim, "c"), results)
    assert not verdict.holds and verdict.text.endswith("but they were scored by different protocols")
    other = write_system(tmp_path / "other", system="other", seed=2, policy="window:4:first")
    assert any("must not be ranked" in warning for warning in results_of(whole, other).warnings)


def test_the_page_shows_comparisons_in_words(tmp_path):
    folders = [write_system(tmp_path / name, system=name, seed=seed) for seed, name in enumerate("ab")]
    html = to_page(results_of(*folders)).to_html()
    assert "cannot tell apart" in html and "p, swapped" in html
    assert "Comparisons" not in to_page(results_of(folders[0])).to_html()


CLAIMS = """
[[claim]]
metric = "eer"
corpus = "alpha"
system = "good"
below = 0.12

[[claim]]
metric = "eer"
corpus = "alpha"
system = "good"
below = 0.085
by = "interval"

[[claim]]
metric = "roc_auc"
corpus = "pooled"
better = ["good", "bad"]

[[claim]]
metric = "eer"
corpus = "beta"
better = ["bad", "good"]
"""


@pytest.fixture(scope="module")
def two_systems(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("scores")
    return results_of(
        write_system(folder / "good", system="good", seed=1),
        write_system(folder / "bad", system="bad", skill=1, seed=2),
    )


def test_a_claim_holds_or_fails_with_value_interval_count_and_line(two_systems):
    verdicts = check_claims(read_claims(CLAIMS, "claims.toml"), two_systems)
    assert [verdict.holds for verdict in verdicts] == [True, False, True, False]
    eer = two_systems.measurements["good", "alpha", "all", "all"]
    value, (low, high) = eer.metrics["eer"], eer.intervals["eer"]
    assert value is not None and value < 0.085 < high
    assert str(verdicts[1]) == (
        f"claims.toml:8: FAILS: eer of good on alpha is {100 * value:.2f} % (95 % interval {100 * low:.2f} % to "
        f"{100 * high:.2f} %), from 300 bona fide and 300 spoof utterances of 30 speakers; claimed: the whole "
        "interval is below 8.50 %"
    )
    assert "p value < 0.001" in verdicts[3].text and "claimed: bad is better" in verdicts[3].text
    again = check_claims(read_claims(CLAIMS, "claims.toml"), two_systems)
    assert list(map(str, again)) == list(map(str, verdicts))
    assert "claims.toml:20" in to_page(two_systems, verdicts).to_html()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("claim = 3", "claims.toml: expected [[claim]] tables"),
        (
            "[[claim]]\nmetric = 'eer'\ncorpus = 'a'\nbelow = 'x'",
            "claims.toml:1: below is 'x'; it must be a number",
        ),
        (
            "\n[[claim]]\nmetric = 'err'\ncorpus = 'a'\nbelow = 1",
            "claims.toml:2: unknown metric 'err'; did you mean eer",
        ),
        ("[[claim]]\nmetric = 'eer'\nbelow = 1", "claims.toml:1: a claim needs a corpus, as text"),
        (
            "[[claim]]\nmetric = 'eer'\ncorpus = 'a'",
            "claims.toml:1: a claim needs below or above, published, or else better",
        ),
        ("[[claim]]\nmetric = 'eer'\ncorpus = 'a'\nbelow = true", "below is True; it must be a number"),
        ("[[claim]]\nmetric = 'eer'\ncorpus = 'a'\nbetter = ['x']", "better is a pair of systems"),
        (
            "[[claim]]\nmetric = 'eer'\ncorpus = 'a'\nbetter = ['x', 'y']\nbelow = 1",
            "without system, by, below and above",
        ),
        (
            "[[claim]]\nmetric = 'eer'\ncorpus = 'a'\nbelow = 1\nby = 'range'",
            "by is 'range'; known: point, interval",
        ),
        ("[[claim]]\nmetric = 'eer'\ncorpus = 'a'\nbellow = 1", "unknown key 'bellow'; did you mean below"),
        ("[[claim]\n", "claims.toml: not TOML"),
    ],
)
def test_a_claim_that_cannot_be_read_is_named_with_its_line(text, message):
    with pytest.raises(InputError) as caught:
        read_claims(text, "claims.toml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("corpus = 'alfa'\nsystem = 'good'\nbelow = 1", "corpus 'alfa' was not measured; did you mean alpha"),
        ("corpus = 'alpha'\nsystem = 'god'\nbelow = 1", "system 'god' was not measured; did you mean good"),
        ("corpus = 'alpha'\nbelow = 1", "there are 2 systems; name one with `system = …`"),
        ("corpus = 'alpha'\nbetter = ['good', 'god']", "system 'god' was not measured"),
    ],
)
def test_a_claim_about_what_was_not_measured_is_an_error(two_systems, entry, message):
    with pytest.raises(InputError) as caught:
        check_claims(read_claims(f"[[claim]]\nmetric = 'eer'\n{entry}", "claims.toml"), two_systems)
    assert message in str(caught.value)


def test_published_rates_are_claims_about_the_systems_that_were_measured(tmp_path):
    folder = write_system(
        tmp_path / "a", system="xlsr_1b", corpora=["in_the_wild", "other"], skill=4, variant="xlsr_1b"
    )
    results = results_of(folder, settings=Settings(num_bootstrap=20))
    (verdict,) = check_claims(load_claims("antideepfake"), results)
    assert verdict.claim.published == 0.0135 and verdict.claim.where.endswith("antideepfake.toml:81")
    assert not verdict.holds and "published: 1.35 %, to be met within 0.10 %" in verdict.text
    html = to_page(results).to_html()
    assert "Beside the paper" in html and ">1.36<" in html and ">1.35<" in html
    with pytest.raises(InputError, match="no system and corpus of these claims was measured"):
        check_claims(load_claims("antideepfake"), results_of(write_system(tmp_path / "b")))


def test_a_published_rate_holds_within_its_tolerance(two_systems):
    eer = two_systems.measurements["good", "alpha", "all", "all"].metrics["eer"] or 0
    entry = "[[claim]]\nmetric = 'eer'\ncorpus = 'alpha'\nsystem = 'good'\nwithin = 0.001\npublished = {}"
    for published, holds in ((eer + 0.001, True), (eer - 0.0011, False)):
        (verdict,) = check_claims(read_claims(entry.format(published), "c"), two_systems)
        assert verdict.holds is holds


def test_every_front_end_of_the_paper_has_a_rate_for_its_six_corpora():
    claims = load_claims("antideepfake")
    assert len({(claim.system, claim.corpus) for claim in claims}) == len(claims) == 7 * 2 * 6
    assert {claim.system.removesuffix("_nda") for claim in claims} < set(VARIANTS)
    assert {claim.corpus for claim in claims} == {
        name
        for name, manifest in load_manifests().items()
        if manifest.role == "evaluation" and manifest.regions is None
    }


def test_claims_that_do_not_exist_are_named(tmp_path):
    with pytest.raises(InputError, match="antideepfak: no such file of claims; did you mean antideepfake"):
        load_claims("antideepfak")
    with pytest.raises(InputError, match=r"x\.toml: no such file of claims"):
        load_claims(str(tmp_path / "x.toml"))
