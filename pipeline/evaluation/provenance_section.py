"""The section of a report about the training of a detector: sources shared with evaluated corpora, and licences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.data.corpora.manifest import UNKNOWN, Manifest, load_manifests
from pipeline.evaluation.results import Results
from pipeline.evaluation.scores import ScoreSet
from pipeline.report import Block, Cell, Section, Table, Text, Value

COMMERCIAL_USE = {False: "allowed", True: "non-commercial only", None: "unknown"}
"""Titles of the values of `Manifest.non_commercial`."""


def provenance_section(results: Results) -> list[Section]:
    """Show what detectors were trained on; nothing if no score folder says it."""
    known = [scores for scores in results.score_sets if training_corpora(scores)]
    if not known:
        return []
    manifests = load_manifests()
    blocks: list[Block] = [
        Text(
            "A corpus that shares recordings with the training flatters a detector, so its error rates there say less "
            "about new speech. Sources are those that the publishers name."
        ),
        Table(
            ["corpus", *(scores.system for scores in known)],
            [
                [corpus, *(_overlap(scores, corpus, manifests) for scores in known)]
                for corpus in results.corpora
            ],
            "Sources shared with the training",
        ),
    ]
    blocks += [_licences(scores, manifests) for scores in known]
    return [Section("Training data", blocks)]


def training_corpora(scores: ScoreSet) -> Sequence[str]:
    """The corpora that the detector was trained on; empty if its checkpoint does not say."""
    names: Sequence[str] = scores.identity.get("training_corpora") or ()
    return names


def _overlap(scores: ScoreSet, corpus: str, manifests: Mapping[str, Manifest]) -> Cell:
    """Name the sources of a corpus that the training of a detector contains."""
    names = training_corpora(scores)
    if corpus in names:
        return Cell("trained on it", is_warning=True, is_word=True)
    if corpus not in manifests or not manifests[corpus].sources:
        return Cell("unknown", is_word=True)
    trained = {source for name in names if name in manifests for source in manifests[name].sources}
    shared = sorted(trained.intersection(manifests[corpus].sources))
    if shared:
        return Cell(", ".join(shared), is_warning=True, is_word=True)
    unknown = [name for name in names if name not in manifests or not manifests[name].sources]
    if unknown:
        return Cell("none known", f"sources unknown: {', '.join(unknown)}", is_word=True)
    return Cell("none", is_word=True)


def _licences(scores: ScoreSet, manifests: Mapping[str, Manifest]) -> Table:
    by_licence: dict[tuple[str, bool | None], list[str]] = {}
    for name in training_corpora(scores):
        manifest = manifests.get(name)
        key = (UNKNOWN, None) if manifest is None else (manifest.licence, manifest.non_commercial)
        by_licence.setdefault(key, []).append(name)
    rows: list[list[Value]] = [
        [
            licence,
            Cell(COMMERCIAL_USE[restricted], is_warning=restricted is not False, is_word=True),
            len(names),
            ", ".join(names),
        ]
        for (licence, restricted), names in sorted(by_licence.items(), key=lambda item: item[0][0])
    ]
    columns = ["licence", "commercial use", "corpora", "names"]
    return Table(columns, rows, f"Licences of the corpora that {scores.system} was trained on")
