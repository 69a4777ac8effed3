"""What a report says about the training of a detector."""

from pipeline.data.corpora.manifest import load_manifests
from pipeline.evaluation.measure import Settings
from pipeline.evaluation.page import to_page
from tests.evaluation.simulated import results_of, write_system


def test_shared_sources_and_licences_of_the_training_are_shown(tmp_path):
    manifests = load_manifests()
    evaluated = next(
        name for name, manifest in manifests.items() if manifest.role == "evaluation" and manifest.sources
    )
    source = manifests[evaluated].sources[0]
    training = [
        name for name, manifest in manifests.items() if source in manifest.sources and name != evaluated
    ]
    assert training, f"a corpus shares {source} with {evaluated}"
    folder = write_system(tmp_path / "a", corpora=[evaluated, "own"], training_corpora=[*training, "own"])
    html = to_page(results_of(folder, settings=Settings(num_bootstrap=20))).to_html()
    assert "Training data" in html and "trained on it" in html and source in html
    assert manifests[training[0]].licence in html
    assert "Licences of the corpora that tiny was trained on" in html


def test_without_training_corpora_nothing_is_claimed(tmp_path):
    html = to_page(results_of(write_system(tmp_path / "a"), settings=Settings(num_bootstrap=20))).to_html()
    assert "Training data" not in html
