"""The section of a report about differences between systems."""

from __future__ import annotations

from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.formatting import format_p_value
from pipeline.evaluation.results import Results
from pipeline.report import Cell, Section, Table, Text, Value


def comparison_section(results: Results) -> list[Section]:
    """Show the difference of every pair of systems; nothing if there is one system."""
    if not results.comparisons:
        return []
    rows: list[list[Value]] = [_comparison(comparison) for comparison in results.comparisons]
    columns = ["corpus", "first − second", "in words", "EER %", "p", "p, swapped", "p, AUC"]
    explanation = (
        "Differences on the utterances that all systems scored, with 95 % intervals: both systems are measured on the "
        "same resamples of speakers or files. p is how often two equal systems would differ at least so much; below "
        "0.05, they are said to differ. As a check, p, swapped comes from exchanging the systems in randomly chosen "
        "speakers or files, and p, AUC from DeLong's test, which takes utterances for independent and is therefore "
        "too small if they are not."
    )
    return [Section("Comparisons", [Table(columns, rows), Text(explanation)])]


def _comparison(comparison: Comparison) -> list[Value]:
    difference = comparison.differences.get("eer")
    cells: list[Value] = [Cell("–"), Cell("–")]
    if difference is not None:
        low, high = difference.interval
        span = f"{100 * low:+.2f} – {100 * high:+.2f}"
        cells = [Cell(f"{100 * difference.value:+.2f}", span), Cell(format_p_value(difference.p_value))]
    return [
        comparison.corpus,
        f"{comparison.first} − {comparison.second}",
        Cell(comparison.in_words(), is_best=comparison.is_significant, is_word=True),
        *cells,
        Cell(format_p_value(comparison.permutation_p_value)),
        Cell(format_p_value(None if comparison.auc is None else comparison.auc.p_value)),
    ]
