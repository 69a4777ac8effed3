"""Numbers of an evaluation as text."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.metrics.intervals import COSTS
from pipeline.metrics.timeline import NonSpeech

NON_SPEECH: Mapping[NonSpeech, str] = {"excluded": "excluded", "bonafide": "counted as bona fide"}
"""What is said of non-speech."""

PLURALS = {"speaker": "speakers", "file": "source files", "utterance": "utterances"}
"""Kind of cluster → its plural."""


def percent(rate: float | None) -> str:
    """Format a rate in percent with two decimals; None becomes a dash."""
    return "–" if rate is None else f"{100 * rate:.2f}"


def number(metric: str, value: float | None) -> str:
    """Format the value of a metric, rates in percent."""
    if value is None:
        return "–"
    if metric.removeprefix("calibrated_") in COSTS or metric in ("roc_auc", "eer_threshold"):
        return f"{value:.3f}"
    return f"{100 * value:.2f} %"


def span(metric: str, interval: tuple[float, float] | None) -> str:
    """Format an interval in brackets, after its value; nothing if it is unknown."""
    if interval is None:
        return ""
    return f" (95 % interval {number(metric, interval[0])} to {number(metric, interval[1])})"


def count_clusters(clusters: Mapping[str, int]) -> str:
    """Say of how many speakers or files utterances are, with a leading space; nothing if they are independent."""
    kinds = [f"{count:,} {PLURALS[kind]}" for kind, count in clusters.items() if kind != "utterance"]
    if not kinds:
        return ""
    if clusters.get("utterance"):
        kinds.append(f"{clusters['utterance']:,} single utterances")
    return f" of {' and '.join(kinds)}"


def describe_frames(smoothing_s: float, non_speech: NonSpeech) -> str:
    """Say how frames are treated before they are measured: `averaged over 0.2 s, non-speech excluded`."""
    smoothed = f"averaged over {smoothing_s:g} s" if smoothing_s else "not smoothed"
    return f"{smoothed}, non-speech {NON_SPEECH[non_speech]}"


def format_p_value(p_value: float | None) -> str:
    """Format a p value; None becomes a dash."""
    if p_value is None:
        return "–"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
