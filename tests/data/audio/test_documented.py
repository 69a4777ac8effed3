"""`docs/audio.md` lists what the code reads, tolerates and refuses."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.audio.containers import tolerances
from pipeline.data.audio.containers.locate import LOCATORS
from pipeline.data.audio.decode import decoders
from pipeline.data.audio.errors import REASONS

TEXT = (Path(__file__).parents[3] / "docs" / "audio.md").read_text()


def test_every_container_is_in_the_table_of_formats() -> None:
    named = {
        name
        for line in TEXT.splitlines()
        if line.startswith("| `")
        for name in line.split("|")[1].replace("`", "").replace(" ", "").split(",")
    }
    assert LOCATORS.keys() <= named
    assert {name for name in named if decoders(name, length_shows_damage=False)} >= {
        "wav",
        "flac",
        "ogg",
        "mp3",
        "mp4",
        "matroska",
        "tak",
    }


def test_every_tolerance_is_in_the_table_with_its_value() -> None:
    units = {"BYTES": "bytes", "S": "s", "SAMPLES": "samples"}
    values = {name: value for name, value in vars(tolerances).items() if name.isupper()}
    assert len(values) >= 10
    for name, value in values.items():
        assert f"| `{name}` | {value} {units[name.rpartition('_')[2]]} |" in TEXT


def test_every_reason_is_explained() -> None:
    for reason in REASONS:
        assert f"`{reason}`" in TEXT
