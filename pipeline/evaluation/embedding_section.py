"""The section of a report about the embeddings of the systems."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.evaluation.cells import percent_span
from pipeline.evaluation.columns import NOT_STATED, Column
from pipeline.evaluation.embedded_points import Points
from pipeline.evaluation.formatting import percent
from pipeline.evaluation.picture import PURITIES, Picture, Projection
from pipeline.evaluation.results import Results
from pipeline.metrics.neighbours import NUM_NEIGHBOURS
from pipeline.report import Block, Cell, Figure, Section, Table, Text, Value
from pipeline.report.scatter import Classification, Panel, Shapes, scatter_plot

MAX_COLUMNS = 3
"""Up to so many systems stand side by side; more, or a single one, have a row each."""

BONAFIDE, SPOOF = "bona fide", "spoof"

HOW_TO_READ = (
    "Each point is an utterance; pointing at it tells which one, and marks it in all pictures. Pointing at a class "
    "of the legend leaves its points. The principal components are the two directions along which the embeddings "
    "differ most; distances there are true, but all other directions are missing. t-SNE keeps near points near and "
    "nothing else: the sizes of its clusters, the distances between them and their shapes mean nothing, and another "
    "perplexity gives another picture. So trust no separation that the table below does not confirm: it is measured "
    "in all dimensions."
)


def embedding_section(results: Results) -> list[Section]:
    """Show the picture of embeddings, and the purities of neighbourhoods; nothing if no system has embeddings."""
    picture = results.picture
    if picture is None:
        return []
    blocks: list[Block] = [Text(note) for note in picture.notes]
    if picture.projections:
        blocks += [_figure(picture), Text(HOW_TO_READ), _purities(picture), Text(_meaning(picture))]
    return [Section("Embeddings", blocks)]


def _figure(picture: Picture) -> Figure:
    points, projections = picture.points, picture.projections
    t_snes = [
        Panel(each.system, f"t-SNE, perplexity {picture.perplexity:.4g}", each.t_sne) for each in projections
    ]
    components = [_components(each) for each in projections]
    has_system_columns = 1 < len(projections) <= MAX_COLUMNS
    panels = (
        [*t_snes, *components]
        if has_system_columns
        else [panel for row in zip(t_snes, components, strict=True) for panel in row]
    )
    classifications = [
        Classification("label", [BONAFIDE, SPOOF], np.where(points.is_bonafide, 0, 1)),
        _artifacts(points),
        *(_classification(name, points.columns[name]) for name in ("corpus", "language")),
    ]
    return scatter_plot(
        f"Embeddings of {len(points):,} utterances, layer {picture.layer}",
        panels,
        list(_texts(picture)),
        classifications,
        Shapes(BONAFIDE, SPOOF, ~points.is_bonafide),
        num_columns=len(projections) if has_system_columns else 2,
    )


def _components(projection: Projection) -> Panel:
    positions_NC, shares = projection.components
    positions_N2 = np.zeros((len(positions_NC), 2))
    positions_N2[:, : positions_NC.shape[1]] = positions_NC[:, :2]
    share = f"{100 * shares[:2].sum():.3g} % of the variance"
    return Panel(projection.system, f"principal components, {share}", positions_N2)


def _artifacts(points: Points) -> Classification:
    """Classify by artifact; bona fide utterances without one are a class of their own."""
    column = points.columns["artifact"]
    is_plain = points.is_bonafide & (column.codes < 0)
    names = [BONAFIDE, *column.names]
    codes = np.where(is_plain, 0, np.where(column.codes < 0, -1, column.codes + 1)).astype(np.int32)
    return _classification("artifact", Column(names, codes))


def _classification(name: str, column: Column) -> Classification:
    """Number the classes that occur, in the order of the column."""
    rows = column.rows_by_name()
    codes = np.empty(column.codes.size, np.int64)
    for number, chosen in enumerate(rows.values()):
        codes[chosen] = number
    return Classification(name, list(rows), codes)


def _texts(picture: Picture) -> Iterator[str]:
    """Tell which utterance each point is."""
    points = picture.points
    names = {name: [*column.names, NOT_STATED] for name, column in points.columns.items()}
    columns = (
        [names[name][code] for code in points.columns[name].codes]
        for name in ("corpus", "attack", "artifact", "language")
    )
    scores = zip(*(each.scores.tolist() for each in picture.projections), strict=True)
    rows = zip(points.ids, points.is_bonafide.tolist(), scores, *columns, strict=True)
    for id_, is_bonafide, row, corpus, attack, artifact, language in rows:
        kind = BONAFIDE if is_bonafide else " · ".join([SPOOF, *_stated(attack, artifact)])
        scored = "\n".join(
            f"{each.system}: score {score:.2f}" for each, score in zip(picture.projections, row, strict=True)
        )
        yield "\n".join([" · ".join([corpus, id_, *_stated(language)]), kind, scored])


def _stated(*texts: str) -> list[str]:
    return [text for text in texts if text != NOT_STATED]


def _purities(picture: Picture) -> Table:
    rows: list[list[Value]] = []
    for each in picture.projections:
        row: list[Value] = [each.system]
        for name in PURITIES:
            metric = f"{name}_purity"
            metrics = each.measurement.metrics
            interval = each.measurement.intervals.get(metric)
            is_warning = name == "corpus" and each.tells_corpora
            row += [
                Cell(percent(metrics[metric]), percent_span(interval) if interval else ""),
                Cell(percent(metrics[f"{metric}_chance"])),
                Cell(percent(metrics[f"{metric}_corrected"]), is_warning=is_warning),
            ]
        rows.append(row)
    columns = [title for name in PURITIES for title in (f"same {name}", "by chance", "corrected")]
    return Table(["system", *columns], rows, f"Purity: % of the {NUM_NEIGHBOURS} nearest neighbours")


def _meaning(picture: Picture) -> str:
    codes = picture.points.columns["corpus"].codes
    one_corpus = "" if np.any(codes != codes[0]) else " There is only one corpus here."
    return (
        "Neighbours are nearest by cosine similarity, in all dimensions. Utterances of the same speaker, or of the "
        "same source file where no speaker is stated, do not count as neighbours; otherwise the table would show how "
        "well speakers are recognised. By chance is the purity of random neighbours, and corrected puts chance at 0 "
        "and only neighbours of the same kind at 100. If the corpus is purer than the label, the embeddings tell "
        f"recordings apart rather than spoofs, and error rates on other corpora may be higher.{one_corpus}"
    )
