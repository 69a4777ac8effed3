"""What a report says about the training of a detector."""

import re

from pipeline.data.corpora.manifest import load_manifests
from pipeline.evaluation.measure import Settings
from pipeline.evaluation.page import to_page
from tests.evaluation.simulated import results_of, write_system


def test_shared_sources_and_licences_of_the_training_are_shown(tmp_path):
    folder = write_system(
        tmp_path / "a",
        corpora=["fakeorreal", "in_the_wild", "own"],
        training_corpora=["asvspoof2019_la", "fakeorreal_norm", "own"],
    )
    html = to_page(results_of(folder, settings=Settings(num_bootstrap=20))).to_html()
    section = html[html.index("Sources shared with the training") :]
    rows = dict(re.findall(r'<th scope="row">(\w+)</th><td[^>]*>([^<]+)<', section)[:3])
    assert rows == {"fakeorreal": "fakeorreal", "in_the_wild": "none known", "own": "trained on it"}
    assert "sources unknown: own" in section
    assert load_manifests()["asvspoof2019_la"].licence in section
    assert "Licences of the corpora that tiny was trained on" in section


def test_without_training_corpora_nothing_is_claimed(tmp_path):
    html = to_page(results_of(write_system(tmp_path / "a"), settings=Settings(num_bootstrap=20))).to_html()
    assert "Training data" not in html
