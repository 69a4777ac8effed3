"""Traced utterances for people: a sentence for the console, and the HTML page."""

from __future__ import annotations

from collections import Counter

from pipeline.report import Facts, Page, Section, Text
from pipeline.tracing.results import SPACES, Results
from pipeline.tracing.sections import (
    SUMMARY,
    candidates_section,
    cascade_section,
    identities_section,
    meaning_section,
    shown,
    summary_table,
    systems_section,
    trials_section,
)
from pipeline.tracing.utterance_sections import confusion_section, examples_section, similarities_section
from pipeline.tracing.verdicts import ROLES, roles


def headline(results: Results) -> str:
    """The result in one line: how well known systems are named, and unknown ones recognised."""
    rates, num_systems, num_new = results.best.new, len(results.systems), len(results.traced.rows)
    known = f"{num_systems:,} known system{'s' if num_systems != 1 else ''}"
    if rates.accuracy is not None:
        sentence = (
            f"{known}: {shown('accuracy', rates.accuracy)} named correctly (macro F1 "
            f"{shown('macro_f1', rates.macro_f1)}, chance {1 / num_systems:.3f})"
        )
        if rates.auroc is not None:
            return f"{sentence}; unknown ones recognised with AUROC {shown('auroc', rates.auroc)}"
        return f"{sentence}; there are no unknown ones to recognise"
    num_accepted = int(results.traced.is_known.sum())
    verdict = (
        f"{num_new:,} new utterances, each with its nearest system"
        if results.known_map is None
        else f"{num_accepted:,} of {num_new:,} new utterances resemble one"
    )
    why = "none is stated to be of one" if rates.num_unknown else "no systems are stated"
    return f"{known}: {verdict}; {why}, so no rates are measured{_gallery_rates(results)}"


def _gallery_rates(results: Results) -> str:
    rates = results.best.gallery
    if rates.macro_f1 is None:
        return ""
    auroc = "" if rates.auroc is None else f", AUROC {shown('auroc', rates.auroc)}"
    return f" (in the gallery: macro F1 {shown('macro_f1', rates.macro_f1)}{auroc})"


def to_page(results: Results) -> Page:
    """Render the page: rates, confusions, similarities, gallery, layers, cascade, trials, examples, identities."""
    return Page(
        f"Source tracing with {results.new['system']}",
        "Which system of a gallery made each new utterance, and whether it is a known one.",
        [
            _overview(results),
            *confusion_section(results),
            similarities_section(results),
            examples_section(results),
            *cascade_section(results),
            *trials_section(results),
            systems_section(results),
            candidates_section(results),
            meaning_section(),
            identities_section(results),
        ],
    )


def _overview(results: Results) -> Section:
    best, rates = results.best, results.best.new
    counts = Counter(roles(results).tolist())
    numbers = ", ".join(f"{counts[role]:,} {words}" for role, words in ROLES.items() if counts[role])
    facts = [
        ("named correctly", shown("accuracy", rates.accuracy), f"of {rates.num_known:,} of known systems"),
        ("AUROC", shown("auroc", rates.auroc), f"known against {rates.num_unknown:,} of unknown systems"),
        (
            "layer",
            best.layer,
            f"{SPACES[best.space]}; {'given' if results.is_given else 'chosen in the gallery'}",
        ),
        ("new utterances", f"{len(results.traced.rows):,}", numbers),
    ]
    return Section(
        "Result",
        [
            Text(f"{headline(results)}."),
            Facts(facts),
            *(Text(warning, "warning") for warning in results.warnings),
            summary_table(results),
            Text(SUMMARY),
        ],
    )
