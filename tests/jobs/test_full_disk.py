"""A disk that becomes full in a worker of Ray ends ingest and score with one line; with more room, they continue."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs import ingest, score
from jobs.ingestion.config import IngestConfig
from jobs.scoring.config import ScoreConfig
from pipeline.detector.checkpoint import save_detector
from pipeline.detector.network import VARIANTS, Detector, DetectorConfig
from pipeline.storage import Folder
from tests.corpora import write_in_the_wild
from tests.faults import reports_full_disk, small_disk

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

ROOM = "size=64m"


def test_an_ingest_continues_once_its_store_has_room(cluster: None, tmp_path: Path):
    write_in_the_wild(tmp_path / "data", count=4)
    with small_disk(tmp_path / "disk", 40) as mount_again:
        settings = IngestConfig(str(tmp_path / "data"), str(tmp_path / "disk/store"))
        with reports_full_disk(tmp_path / "disk/store/shards"):
            ingest.main(settings)
        assert not Folder(settings.store).exists("snapshots")
        mount_again(ROOM)
        assert ingest.main(settings) == 0
        assert Folder(settings.store).exists("snapshots/000001.json")


def test_scores_continue_once_their_folder_has_room(cluster: None, tmp_path: Path):
    write_in_the_wild(tmp_path / "data", count=4)
    torch.manual_seed(1)
    save_detector(
        Detector(DetectorConfig(VARIANTS["tiny"])),
        tmp_path / "detector.safetensors",
        {"training": "feed", "step": "7"},
    )
    with small_disk(tmp_path / "disk", 8) as mount_again:
        out = str(tmp_path / "disk/scores")
        settings = ScoreConfig(str(tmp_path / "detector.safetensors"), out, audio=str(tmp_path / "data"))
        with reports_full_disk(tmp_path / "disk/scores"):
            score.main(settings)
        mount_again(ROOM)
        score.main(settings)
        assert Folder(out).exists("scores.json")
