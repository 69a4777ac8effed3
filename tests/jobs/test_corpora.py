"""`bonafide corpora`: manifests, files on disk, cards; and the card that an ingest logs to MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from jobs import ingest
from jobs.corpora import CorporaConfig, main
from jobs.ingestion.config import IngestConfig
from pipeline.card.page import corpus_card
from pipeline.config import run
from pipeline.data.corpora.manifest import load_manifests
from pipeline.data.corpora.recipe import load_recipe
from pipeline.data.store.snapshot import commit_snapshot, load_snapshot
from pipeline.errors import InputError
from pipeline.fields import Names, Pairs
from pipeline.storage import Folder
from tests.card.stores import utterances, write_corpus
from tests.corpora import write_asvspoof2019_la, write_in_the_wild, write_partialspoof

CORPORA = ("asvspoof5", "mlaad")


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    """A store of two corpora with both labels in both splits."""
    store = Folder(str(tmp_path / "store"))
    rows = [
        row
        for split in ("train", "validation")
        for label in ("bonafide", "spoof")
        for row in utterances(5, label, split=split)
    ]
    commit_snapshot(store, [write_corpus(store, name, [rows]) for name in CORPORA])
    return store


def test_without_arguments_one_line_per_corpus_is_printed(capsys):
    main(CorporaConfig())
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split("  ")[0] == "corpus"
    assert [row.split()[0] for row in rows] == list(load_manifests())
    (fleurs,) = [row for row in rows if row.startswith("fleurs ")]
    assert "af am ar as … 102 in total" in fleurs


def test_named_corpora_are_described_in_full(capsys):
    main(CorporaConfig(corpora=Names(("mlaad", "deepfake_eval_2024", "fakeorreal"))))
    mlaad, deepfake_eval, fakeorreal = capsys.readouterr().out.strip().split("\n\n")
    manifest = load_manifests()["mlaad"]
    assert mlaad.splitlines()[0] == "mlaad"
    fields = dict(line.split(maxsplit=1) for line in mlaad.splitlines()[1:])
    assert fields == {
        "role": "train",
        "licence": "CC-BY-NC-4.0 (non-commercial)",
        "homepage": manifest.homepage,
        "revision": "v5",
        "languages": " ".join(manifest.languages),
        "sources": ", ".join(manifest.sources),
        "hours": f"0.0 bona fide, {manifest.expected_hours.spoof:.1f} spoof",
        "folder": manifest.folder,
    }
    assert "  chunks     13 s by default; published results use 4, 10, 13, 30, 50 s" in deepfake_eval
    assert "  hours      unknown" in deepfake_eval
    assert "  languages  unknown" in deepfake_eval
    assert "  hours      149.7 in total" in fakeorreal


def test_files_on_disk_are_counted_by_label_split_and_problem(tmp_path: Path, capsys):
    write_in_the_wild(tmp_path / "data", count=4)
    write_asvspoof2019_la(tmp_path / "elsewhere", num_train=3, num_dev=3)
    (tmp_path / "data" / "In-the-Wild" / "extra.sph").touch()
    main(
        CorporaConfig(
            root=str(tmp_path / "data"),
            roots=Pairs((("asvspoof2019_la", str(tmp_path / "elsewhere" / "ASVspoof2019-LA")),)),
            corpora=Names(("in_the_wild", "asvspoof2019_la", "mlaad")),
        )
    )
    assert capsys.readouterr().out.splitlines() == [
        "in_the_wild: 2 bonafide, 2 spoof (4 no split)",
        "  1 stray, first: extra.sph: matches no audio pattern of the manifest",
        "asvspoof2019_la: 4 bonafide, 6 spoof (4 test, 3 train, 3 validation)",
        f"mlaad: no folder {tmp_path / 'data' / 'MLAAD_v5'}",
    ]
    with pytest.raises(InputError, match="--roots names mlad"):
        main(CorporaConfig(roots=Pairs((("mlad", "x"),))))


def test_problems_are_counted_by_label_where_it_is_known(tmp_path: Path, capsys):
    write_in_the_wild(tmp_path, count=6)
    folder = tmp_path / "In-the-Wild" / "release_in_the_wild"
    for number in (0, 1, 2):
        (folder / f"{number}.wav").rename(folder / f"{number}.flac")
    main(CorporaConfig(root=str(tmp_path), corpora=Names(("in_the_wild",))))
    assert capsys.readouterr().out.splitlines() == [
        "in_the_wild: 2 bonafide, 1 spoof (3 no split)",
        "  3 missing (1 bonafide, 2 spoof), first: release_in_the_wild/0.wav: listed in the protocol, but the file "
        "does not exist; on disk is release_in_the_wild/0.flac",
        "  3 stray, first: release_in_the_wild/0.flac: matches no audio pattern of the manifest",
    ]


def write_two_corpora(data: Path) -> Path:
    """Write a corpus with a broken table and a good one; return the broken table."""
    write_in_the_wild(data, count=4)
    write_asvspoof2019_la(data, num_train=3, num_dev=3)
    table = data / "In-the-Wild" / "release_in_the_wild" / "meta.csv"
    table.write_text(table.read_text().replace(",", ";"))
    return table


@pytest.mark.parametrize(
    "corpora", [(), ("in_the_wild", "asvspoof2019_la"), ("in_the_wild", "asvspoof2019_la", "mlaad")]
)
def test_one_corpus_with_a_broken_table_does_not_end_the_others(
    corpora: tuple[str, ...], tmp_path: Path, capsys
):
    table = write_two_corpora(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(CorporaConfig(root=str(tmp_path), corpora=Names(corpora)))
    assert exit_.value.code == 1
    output = capsys.readouterr()
    lines = [line for line in output.out.splitlines() if "no folder" not in line]
    assert sorted(lines) == [
        "asvspoof2019_la: 4 bonafide, 6 spoof (4 test, 3 train, 3 validation)",
        f"in_the_wild: {table}: its header lacks 'file', 'speaker', 'label'; line 1 has 1 column: "
        "file;speaker;label; expected file, speaker, label, separated by comma",
    ]
    assert output.err == "bonafide corpora: 1 of 2 corpora cannot be read\n"


def test_regions_are_read_and_what_does_not_fit_is_named(tmp_path: Path, capsys):
    write_partialspoof(tmp_path)
    folder = tmp_path / "PartialSpoof" / "database"
    (folder / "vad/dev/CON_D_0000000.vad").write_text("0.0 0.5 1\n")
    (folder / "dev/con_wav/CON_D_0000001.wav").unlink()
    main(CorporaConfig(root=str(tmp_path), corpora=Names(("partialspoof",))))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("partialspoof: 3 spoof (3 validation)")
    assert lines[-3:] == [
        "  regions of 2 utterances: 0.00 h bonafide, 0.00 h spoof",
        "    1 contradicts-label, first: database/vad/dev/CON_D_0000000.vad:1: 0 to 0.5 s: no region of the spoofed "
        "utterance is spoofed",
        "    1 lost-utterance, first: database/vad/dev/CON_D_0000001.vad:1: dev/CON_D_0000001",
    ]
    (folder / "vad/dev/CON_D_0000000.vad").write_text("0.0 spoof\n")
    with pytest.raises(InputError, match=r"CON_D_0000000\.vad: line 1: found 2 columns instead of 3"):
        main(CorporaConfig(root=str(tmp_path), corpora=Names(("partialspoof",))))


def test_a_broken_table_of_the_only_corpus_is_a_user_error(tmp_path: Path, capsys):
    table = write_two_corpora(tmp_path)
    (tmp_path / "ASVspoof2019-LA").rename(tmp_path / "elsewhere")
    assert run(main, ["--root", str(tmp_path), "--corpora", "in_the_wild"]) == 2
    assert capsys.readouterr().err.startswith(f"bonafide corpora: {table}: its header lacks 'file'")
    with pytest.raises(SystemExit) as exit_:
        main(CorporaConfig(root=str(tmp_path)))
    assert exit_.value.code == 2
    assert f"\nin_the_wild: {table}: its header lacks" in capsys.readouterr().out


def test_a_corpus_without_its_table_does_not_end_the_others(tmp_path: Path, capsys):
    write_two_corpora(tmp_path).unlink()
    with pytest.raises(SystemExit) as exit_:
        main(CorporaConfig(root=str(tmp_path), corpora=Names(("in_the_wild", "asvspoof2019_la"))))
    assert exit_.value.code == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"in_the_wild: no protocol in {tmp_path}")
    assert second.startswith("asvspoof2019_la: 4 bonafide")


def test_a_card_shows_only_the_named_corpora(store: Folder, tmp_path: Path, capsys):
    page = tmp_path / "pages" / "card.html"
    main(CorporaConfig(store=store.uri, html=str(page), corpora=Names(("mlaad",))))
    html = page.read_text()
    assert "Corpus card of snapshot 000001" in html
    assert "mlaad" in html
    assert "asvspoof5" not in html
    assert str(page) in capsys.readouterr().out


def test_a_card_shows_a_recipe_given_by_name_or_file(store: Folder, tmp_path: Path):
    page, mix = tmp_path / "card.html", tmp_path / "mix.toml"
    mix.write_text('name = "mix"\nexcluded = ["mlaad"]\n')
    for recipe in ("antideepfake", str(mix)):
        main(CorporaConfig(store=store.uri, html=str(page), recipe=recipe))
        assert f"<h2>Recipe {Path(recipe).stem}</h2>" in page.read_text()
    with pytest.raises(InputError, match="did you mean antideepfake"):
        main(CorporaConfig(store=store.uri, html=str(page), recipe="antideepfakes"))


def test_a_card_needs_a_store_and_a_file(store: Folder):
    for name, value in {"html": "card.html", "store": "s", "recipe": "r"}.items():
        with pytest.raises(InputError, match="--html FILE"):
            CorporaConfig(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--recipe only affects the card; add --html FILE"):
        CorporaConfig(store=store.uri, export_protocol="p.csv", recipe="antideepfake")


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")
def test_an_ingest_logs_its_card_to_mlflow(cluster: None, tmp_path: Path):
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
    experiment = client.get_experiment_by_name("bonafide-ingest")
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
