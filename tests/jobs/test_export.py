"""`bonafide export`: from a SCORES folder to the files of another project."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from jobs.__main__ import run_command
from tests.evaluation.test_export import PLAIN_IDS, write_scores


def test_the_files_are_written_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scores(tmp_path / "scores", PLAIN_IDS)
    flags = ["--scores", str(tmp_path / "scores"), "--format", "arena", "--out", str(tmp_path / "out")]
    assert run_command("export", flags) == 0
    printed = capsys.readouterr().out.splitlines()
    files = [
        tmp_path / "out" / corpus / name
        for corpus in ("one", "two")
        for name in ("scores.txt", "submission.yaml")
    ]
    assert printed[:4] == [str(file) for file in files] and all(file.exists() for file in files)
    assert len(printed) == 6 and "TODO" in printed[5]
    system = yaml.safe_load(files[1].read_text(encoding="utf-8"))["system"]
    assert 0.1 <= system["params_millions"] < 1, "the tiny variant"


def test_nothing_is_written_if_the_format_cannot_hold_an_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scores(tmp_path / "scores", ["fine", "not fine"])
    flags = ["--scores", str(tmp_path / "scores"), "--format", "asvspoof", "--out", str(tmp_path / "out")]
    assert run_command("export", flags) == 2
    assert "the id 'not fine' has white space" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run_command("export", [*flags[:-1], str(tmp_path / "scores")]) == 2
