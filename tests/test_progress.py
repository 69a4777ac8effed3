from __future__ import annotations

import io

import pytest

from pipeline.progress import Progress, clock


def test_a_line_says_how_far_how_fast_and_how_much_longer():
    progress = Progress("building", 10, "shards", every_s=1e9)
    progress.add(4, audio_s=7200.0, num_rejected=3)
    assert progress.line(60.0) == (
        "building 4/10 shards · 2.00 h of audio · 120× real time · 3 rejected · 1:00 so far · 1:30 left"
    )


def test_lines_come_no_faster_than_asked():
    stream = io.StringIO()
    progress = Progress("scoring", 3, "parts", every_s=1e9, stream=stream)
    progress.add()
    progress.add()
    assert stream.getvalue() == ""
    eager = Progress("scoring", 3, "parts", every_s=0.0, stream=stream)
    eager.add()
    eager.add()
    assert stream.getvalue().count("\n") == 2


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str):
    assert clock(seconds) == text
