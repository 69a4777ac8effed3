"""`bonafide corpora --store`, and the card that an ingest leaves in MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from jobs import ingest
from jobs.corpora import CorporaConfig, main
from jobs.ingestion.config import IngestConfig
from pipeline.card.page import corpus_card
from pipeline.config import Names
from pipeline.data.corpora.recipe import load_recipe
from pipeline.data.store.snapshot import commit_snapshot, load_snapshot
from pipeline.errors import InputError
from pipeline.storage import Folder
from tests.card.stores import utterances, write_corpus
from tests.corpora import write_asvspoof2019_la, write_in_the_wild

CORPORA = ("asvspoof5", "mlaad")


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    """Two corpora with both labels, in training and in validation."""
    store = Folder(str(tmp_path / "store"))
    rows = [
        row
        for split in ("train", "validation")
        for label in ("bonafide", "spoof")
        for row in utterances(5, label, split=split)
    ]
    commit_snapshot(store, [write_corpus(store, name, [rows]) for name in CORPORA])
    return store


def test_card_is_of_the_corpora_that_are_asked_for(store: Folder, tmp_path: Path, capsys):
    page = tmp_path / "pages" / "card.html"
    main(CorporaConfig(store=store.uri, html=str(page), corpora=Names(("mlaad",))))
    html = page.read_text()
    assert "Corpus card of snapshot 000001" in html
    assert "mlaad" in html
    assert "asvspoof5" not in html
    assert str(page) in capsys.readouterr().out


def test_card_shows_a_recipe_by_its_name_or_file(store: Folder, tmp_path: Path):
    page, mix = tmp_path / "card.html", tmp_path / "mix.toml"
    mix.write_text('name = "mix"\nexcluded = ["mlaad"]\n')
    for recipe in ("antideepfake", str(mix)):
        main(CorporaConfig(store=store.uri, html=str(page), recipe=recipe))
        assert f"<h2>Recipe {Path(recipe).stem}</h2>" in page.read_text()
    with pytest.raises(InputError, match="did you mean antideepfake"):
        main(CorporaConfig(store=store.uri, html=str(page), recipe="antideepfakes"))


def test_card_needs_a_store_and_a_file(store: Folder):
    for config in (CorporaConfig(html="card.html"), CorporaConfig(store="s"), CorporaConfig(recipe="r")):
        with pytest.raises(InputError, match="--html FILE"):
            main(config)
    with pytest.raises(InputError, match="--recipe is for a card: give --html FILE"):
        main(CorporaConfig(store=store.uri, export_protocol="p.csv", recipe="antideepfake"))
    with pytest.raises(InputError, match="name of a file"):
        main(CorporaConfig(store=store.uri, html="pages/"))


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")
def test_an_ingest_leaves_its_card_in_mlflow(cluster: None, tmp_path: Path):
    write_asvspoof2019_la(tmp_path / "data", num_train=6, num_dev=3)
    write_in_the_wild(tmp_path / "data", count=4)
    uri, store = f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "store")
    for recipe in ("", "leakage_free"):
        config = IngestConfig(
            str(tmp_path / "data"),
            store,
            Names(("asvspoof2019_la", "in_the_wild")),
            recipe=recipe,
            tracking_uri=uri,
        )
        ingest.main(config)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("bonafide")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    cards = [
        Path(client.download_artifacts(run.info.run_id, "corpus_card.html", str(tmp_path))).read_text()
        for run in runs
    ]
    snapshot = load_snapshot(Folder(store))
    assert cards == [
        corpus_card(Folder(store), snapshot).to_html(),
        corpus_card(Folder(store), snapshot, load_recipe("leakage_free")).to_html(),
    ]
    assert "Recipe leakage_free" in cards[1]
