from __future__ import annotations

import io

import pytest

from pipeline.progress import Progress, clock


def test_a_line_shows_progress_speed_and_time_left():
    progress = Progress("building", 10, "shards", interval_s=1e9)
    progress.add(4, audio_s=7200.0, num_rejected=3)
    assert progress.line(60.0) == (
        "building 4/10 shards · 2.00 h of audio · 120× real time · 3 rejected · 1:00 elapsed · 1:30 left"
    )


def test_lines_are_printed_no_faster_than_the_interval():
    stream = io.StringIO()
    progress = Progress("scoring", 3, "parts", interval_s=1e9, stream=stream)
    progress.add()
    progress.add()
    assert stream.getvalue() == ""
    eager = Progress("scoring", 3, "parts", interval_s=0.0, stream=stream)
    eager.add()
    eager.add()
    assert stream.getvalue().count("\n") == 2


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_clock_rounds_to_whole_seconds(seconds: float, text: str):
    assert clock(seconds) == text
