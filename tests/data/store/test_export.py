"""A store that is exported as a protocol CSV can be ingested again from it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from jobs import corpora
from jobs.ingestion import building
from jobs.ingestion.cataloging import CatalogedCorpus, Cataloger, Listing
from jobs.ingestion.config import IngestConfig
from jobs.ingestion.sources import find_sources
from jobs.training.checks import check_exclusions
from pipeline.data.corpora.csv_rows import COLUMNS
from pipeline.data.corpora.recipe import Recipe, load_recipe
from pipeline.data.store.export import write_protocol
from pipeline.data.store.shard_tables import INDEX, ShardSummary, commit_index, read_summary
from pipeline.data.store.snapshot import (
    CorpusSnapshot,
    Snapshot,
    commit_snapshot,
    latest_snapshot,
    load_utterances,
)
from pipeline.errors import InputError
from pipeline.fields import Names
from pipeline.storage import Folder


def write_corpora(root: Path) -> None:
    rng = np.random.default_rng(0)

    def clip(path: str, rate: int = 16000) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / path, rng.uniform(-0.3, 0.3, rng.integers(rate, 2 * rate)), rate)

    lists = "ASVspoof2019-LA/LA/ASVspoof2019_LA_cm_protocols"
    for split, letter, ending in (("train", "T", "trn"), ("dev", "D", "trl"), ("eval", "E", "trl")):
        lines = []
        for number in range(4):
            name = f"LA_{letter}_{number}"
            clip(f"ASVspoof2019-LA/LA/ASVspoof2019_LA_{split}/flac/{name}.flac")
            lines.append(f"LA_000{number} {name} - {'A01 spoof' if number % 2 else '- bonafide'}\n")
        (root / lists).mkdir(parents=True, exist_ok=True)
        (root / lists / f"ASVspoof2019.LA.cm.{split}.{ending}.txt").write_text("".join(lines))
    clip("MLS/mls_dutch/dev/audio/1/2/1_2_3.flac", 22050)
    clip("FLEURS/fleurs-r/data/yue_hant_hk/audio/test/1.wav")


COMMON_COLUMNS = ["id", "label", "attack", "speaker", "split", "language", "pcm_sha256"]


def rows_of(store: str, snapshot: Snapshot) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = load_utterances(Folder(store), snapshot, COMMON_COLUMNS).to_pylist()
    return sorted(rows, key=str)


def run_ingest(**flags: Any) -> Snapshot:
    """Run the ingest job in this process, without Ray."""
    config = IngestConfig(**flags)
    store, sources = Folder(config.store), find_sources(config)
    before = latest_snapshot(store)
    done = []
    for name, source in sources.items():
        found = CatalogedCorpus(Listing(name, {}))
        cataloger = Cataloger(sources, store).after(before)
        for part in cataloger.list_parts(name):
            if not isinstance(part, Listing):
                found.rows.add(cataloger.probe_part(name, part))
        plan = building.plan_corpus(source.manifest, found, store, before, config)
        for group, shard in enumerate(plan.shards):
            batch: dict[str, Sequence[Any]] = {
                "corpus": [name],
                "shard": [shard.name],
                "catalog": [plan.catalog],
                "group": [group],
            }
            building.build_batch(batch, sources, store, config.resampler)
        summaries = {shard.name: read_summary(store, name, shard.name) for shard in plan.shards}
        done.append(building.corpus_snapshot(source.manifest, plan, summaries))
    return commit_snapshot(store, done)


def test_an_export_is_ingested_with_the_same_rows_and_excluded_rows_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root, first, second = (str(tmp_path / name) for name in ("data", "first", "second"))
    write_corpora(tmp_path / "data")
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        'name = "small"\ncorpora = ["asvspoof2019_la", "mls", "fleurs_r", "decro"]\n'
        'excluded = ["asvspoof2019_la/test"]\n'
    )
    partial = run_ingest(root=root, store=first, recipe=str(recipe))
    assert "DECRO" in capsys.readouterr().out
    asvspoof = partial.corpora["asvspoof2019_la"]
    assert (asvspoof.found, asvspoof.written, asvspoof.rejected) == (12, 8, {})
    assert asvspoof.excluded == {"excluded-test": 4}
    with pytest.raises(InputError, match="needs asvspoof2019_la/test"):
        check_exclusions(Recipe(), partial)
    check_exclusions(load_recipe(str(recipe)), partial)

    complete = run_ingest(root=root, store=first, corpora=Names(["asvspoof2019_la"]))
    grown = complete.corpora["asvspoof2019_la"]
    assert (grown.found, grown.written, grown.excluded) == (12, 12, {})
    assert {shard.name for shard in asvspoof.shards} < {shard.name for shard in grown.shards}

    protocol = str(tmp_path / "exported.csv")
    corpora.main(corpora.CorporaConfig(store=first, export_protocol=protocol))
    reingested = run_ingest(root=root, store=second, protocol=protocol)
    assert list(reingested.corpora) == ["exported"]
    assert (reingested.corpora["exported"].found, reingested.corpora["exported"].written) == (14, 14)
    assert rows_of(second, reingested) == rows_of(first, complete)
    with Path(protocol).open(newline="") as file:
        cells = {line["ID"]: line for line in csv.DictReader(file)}
    info = soundfile.info(str(tmp_path / "data" / "MLS/mls_dutch/dev/audio/1/2/1_2_3.flac"))
    assert cells["MLS-NL-1_2_3"] == {
        "ID": "MLS-NL-1_2_3",
        "Label": "real",
        "Duration": f"{info.duration:.2f}",
        "SampleRate": "22050",
        "Path": "$ROOT/MLS/mls_dutch/dev/audio/1/2/1_2_3.flac",
        "Attack": "-",
        "Speaker": "1",
        "Proportion": "valid",
        "AudioChannel": "1",
        "AudioEncoding": "FLAC",
        "AudioBitSample": "16",
        "Language": "NL",
    }
    assert cells["FLEURS-R-YUE_HANT-1"]["Path"] == "$ROOT/FLEURS/fleurs-r/data/yue_hant_hk/audio/test/1.wav"
    assert cells["FLEURS-R-YUE_HANT-1"]["Language"] == "YUE"
    assert cells["FLEURS-R-YUE_HANT-1"]["AudioEncoding"] == "PCM_S"
    assert cells["ASV19LA-LA_T_1"]["Attack"] == "A01"


def test_segments_are_omitted_from_an_export_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recordings = tmp_path / "data" / "DeepVoice" / "KAGGLE" / "AUDIO" / "FAKE"
    recordings.mkdir(parents=True)
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 40000)
    soundfile.write(recordings / "biden-to-taylor.wav", noise, 16000)
    (tmp_path / "data" / "DeepVoice" / "DeepVoice_seg_log.txt").write_text(
        "Audio: biden-to-taylor_seg_1, start at: 0, end at: 24000\n"
        "Audio: biden-to-taylor_seg_2, start at: 16000, end at: 40000\n"
    )
    store, protocol = str(tmp_path / "store"), tmp_path / "exported.csv"
    snapshot = run_ingest(root=str(tmp_path / "data"), store=store)
    assert snapshot.corpora["deepvoice"].written == 2
    corpora.main(corpora.CorporaConfig(store=store, export_protocol=str(protocol)))
    assert "omitted: 2 segments of deepvoice" in capsys.readouterr().out
    assert protocol.read_text() == ",".join(COLUMNS) + "\n"


def test_a_file_whose_name_has_a_line_end_is_omitted_from_an_export_and_counted(tmp_path: Path):
    store = Folder(str(tmp_path))
    paths = ("a.wav", "b\nb.wav", "c\rc.wav")
    rows: list[Any] = [
        dict.fromkeys(INDEX.names)
        | {"id": path, "corpus": "toy", "path": path, "label": "spoof", "seconds": 1.0, "attack": "A01"}
        for path in paths
    ]
    summary = ShardSummary("toy-0", "toy", 0, "", len(rows), {"spoof": 3.0})
    commit_index(store, summary, pa.Table.from_pylist(rows, INDEX), build_settings="")
    corpus = CorpusSnapshot("toy", "train", "", None, "", "", len(rows), {}, {}, {}, (summary,))
    file = io.BytesIO()
    counts = write_protocol(file, store, Snapshot(1, "", {"toy": corpus}), {"toy": "Toy"})
    assert (counts.num_rows, counts.segments, counts.line_ends) == (1, {}, {"toy": 2})
    assert file.getvalue().decode().splitlines()[1:] == ["a.wav,fake,1.00,-,$ROOT/Toy/a.wav,A01,-,-,-,-,-,-"]
