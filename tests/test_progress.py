from __future__ import annotations

import io
import queue
import time

import pytest

from pipeline.progress import Progress, clock, counted


def test_a_line_shows_progress_speed_and_time_left():
    progress = Progress("building", 10, "shard", interval_s=1e9)
    progress.add(4, audio_s=7200.0, num_rejected=3)
    assert progress.line(60.0) == (
        "building 4/10 shards · 2.00 h of audio · 120× real time · 3 rejected · 1:00 elapsed · 1:30 left"
    )


def test_lines_are_printed_no_faster_than_the_interval():
    stream = io.StringIO()
    progress = Progress("scoring", 3, "part", interval_s=1e9, stream=stream)
    progress.add()
    progress.add()
    assert stream.getvalue() == ""
    eager = Progress("scoring", 3, "part", interval_s=0.0, stream=stream)
    eager.add()
    eager.add()
    assert stream.getvalue().count("\n") == 2


@pytest.mark.parametrize(("reason", "end"), [("", ""), ("in use: 2 of 2 CPUs", " · in use: 2 of 2 CPUs")])
def test_a_long_silence_is_broken_with_the_reason(reason: str, end: str):
    lines: queue.Queue[str] = queue.Queue()
    stream = io.StringIO()
    stream.flush = lambda: lines.put(stream.getvalue().splitlines()[-1])  # type: ignore[method-assign]
    with Progress("building", 3, "shard", lambda: reason, silence_s=0.1, stream=stream) as progress:
        assert lines.get(timeout=60) == f"building 0/3 shards · 0:00 elapsed{end}"
        progress.add(3)
    num_lines = stream.getvalue().count("\n")
    assert stream.getvalue().splitlines()[-1].startswith("building 3/3 shards")
    time.sleep(0.3)
    assert stream.getvalue().count("\n") == num_lines, "a line after the end"


def test_a_total_that_is_not_known_yet_is_left_out():
    progress = Progress("cataloging", None, "row", interval_s=1e9)
    progress.add(2000)
    assert progress.line(5.0) == "cataloging 2000 rows · 0:05 elapsed"


def test_the_last_line_is_printed_once():
    for interval_s in (0.0, 1e9):
        stream = io.StringIO()
        with Progress("building", 1, "shard", interval_s=interval_s, stream=stream) as progress:
            progress.add()
        assert stream.getvalue().splitlines() == ["building 1/1 shard · 0:00 elapsed"]


def test_a_run_that_fails_has_no_last_line():
    stream = io.StringIO()
    with (
        pytest.raises(ValueError, match="bad"),
        Progress("building", 1, "shard", interval_s=1e9, stream=stream),
    ):
        raise ValueError("bad")
    assert stream.getvalue() == ""


def test_one_thing_is_singular():
    assert [counted(number, "part") for number in (0, 1, 2)] == ["0 parts", "1 part", "2 parts"]


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_clock_rounds_to_whole_seconds(seconds: float, text: str):
    assert clock(seconds) == text
