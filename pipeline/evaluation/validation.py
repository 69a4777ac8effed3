"""How a training did on held-out data, from its first validation to its latest: one page that grows with it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.metrics import ClassScores, det_curve, equal_error_rate
from pipeline.report import Block, Cell, Facts, Figure, Page, Section, Table, Text, Value
from pipeline.report.charts import Line, histogram, line_chart, linear_axis, probit_axis

EER = "validation/eer"
"""Metric of all utterances; `validation/eer/CORPUS` is that of a corpus."""

ALL = "all corpora"
NUM_LINES = 7
"""Corpora with a line of their own over the steps: those with the most utterances."""

SCORES = pa.schema([("corpus", pa.string()), ("label", pa.string()), ("score", pa.float32())])


@dataclass(frozen=True)
class Validation:
    """The scores of all held-out utterances at one step, by corpus."""

    step: int
    by_corpus: Mapping[str, ClassScores]

    @cached_property
    def all(self) -> ClassScores:
        """The scores of all corpora together."""
        parts = self.by_corpus.values()
        return ClassScores(*(np.concatenate([np.asarray(part[label]) for part in parts]) for label in (0, 1)))

    def eer(self, corpus: str = ALL) -> float | None:
        """The equal error rate of a corpus, or of all; None where a class is missing."""
        scores = self.all if corpus == ALL else self.by_corpus.get(corpus)
        if scores is None or not (scores.bonafide.size and scores.spoof.size):
            return None
        return equal_error_rate(scores.bonafide, scores.spoof).eer


def to_table(validation: Validation) -> pa.Table:
    """One row an utterance: corpus, label, score."""
    parts = [
        pa.table({"corpus": [corpus] * scores.size, "label": [label] * scores.size, "score": scores}).cast(
            SCORES
        )
        for corpus, by_label in validation.by_corpus.items()
        for label, scores in zip(("bonafide", "spoof"), by_label, strict=True)
    ]
    return pa.concat_tables([SCORES.empty_table(), *parts])


def from_table(step: int, table: pa.Table) -> Validation:
    """What `to_table` wrote."""
    by_corpus = {}
    for corpus in sorted(pc.unique(table["corpus"]).to_pylist()):
        rows = table.filter(pc.equal(table["corpus"], corpus))
        bonafide, spoof = (
            rows.filter(pc.equal(rows["label"], label))["score"].to_numpy() for label in ("bonafide", "spoof")
        )
        by_corpus[corpus] = ClassScores(bonafide, spoof)
    return Validation(step, by_corpus)


def eer_history(lines: Iterable[str]) -> dict[int, dict[str, float]]:
    """Step → corpus → EER, from lines of metrics as JSON; of a step that was done twice the later one counts."""
    history: dict[int, dict[str, float]] = {}
    for line in lines:
        point = json.loads(line)
        rates = {
            name.removeprefix(EER).removeprefix("/") or ALL: float(value)
            for name, value in point.items()
            if name == EER or name.startswith(f"{EER}/")
        }
        if rates:
            history[int(point["step"])] = rates
    return dict(sorted(history.items()))


def to_page(
    title: str, history: Mapping[int, Mapping[str, float]], best_step: int, shown: Sequence[Validation]
) -> Page:
    """The EER over steps, and the curves of a few validations.

    Args:
        title: names the training.
        history: step → corpus → EER, ALL among the corpora; every step of `shown`, at least.
        best_step: the step whose weights are kept.
        shown: the first validation, the best and the latest, in this order; fewer if they are the same.
    """
    latest = shown[-1]
    corpora = sorted(latest.by_corpus, key=lambda corpus: (-_size(latest.by_corpus[corpus]), corpus))
    names = {validation.step: _name(validation.step, best_step, shown) for validation in shown}
    sections = [
        Section(
            "Error rate",
            [
                _facts(history, best_step, latest),
                _over_steps(history, best_step, corpora),
                _det(ALL, shown, names),
            ],
        ),
        Section("By corpus", [_by_corpus(corpora, shown, names), *_dets(corpora, shown, names)]),
        Section(f"ClassScores at step {latest.step:,}", _histograms(corpora, latest)),
    ]
    words = "Whole utterances of the validation split. A score is the logit of bona fide minus that of spoof."
    return Page(title, words, sections)


def _size(scores: ClassScores) -> int:
    return scores.bonafide.size + scores.spoof.size


def _name(step: int, best_step: int, shown: Sequence[Validation]) -> str:
    roles = [
        role
        for role, of_role in (("first", shown[0].step), ("best", best_step), ("latest", shown[-1].step))
        if step == of_role
    ]
    return f"step {step:,} ({', '.join(roles)})"


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{100 * rate:.2f}"


def _facts(history: Mapping[int, Mapping[str, float]], best_step: int, latest: Validation) -> Facts:
    num_since = sum(step > best_step for step in history)
    since = f"{num_since} since were no better" if num_since else "the latest"
    return Facts(
        [
            ("best EER %", _percent(history[best_step][ALL]), f"step {best_step:,}, {since}"),
            ("latest EER %", _percent(history[latest.step][ALL]), f"step {latest.step:,}"),
            ("bona fide utterances", f"{latest.all.bonafide.size:,}", ""),
            ("spoof utterances", f"{latest.all.spoof.size:,}", ""),
            ("corpora", f"{len(latest.by_corpus):,}", ""),
        ]
    )


def _over_steps(history: Mapping[int, Mapping[str, float]], best_step: int, corpora: Sequence[str]) -> Figure:
    steps = list(history)
    lines = []
    for index, corpus in enumerate([ALL, *corpora[:NUM_LINES]] if len(corpora) > 1 else [ALL], start=1):
        points = [(step, 100 * history[step][corpus]) for step in steps if corpus in history[step]]
        if not points:
            continue
        marks = [(float(step), rate, f"{corpus}, step {step:,}: {rate:.2f} %") for step, rate in points]
        if corpus != ALL:
            marks = []
        lines.append(
            Line(corpus, [step for step, _ in points], [rate for _, rate in points], index, marks=marks)
        )
    highest = max(100 * rate for rates in history.values() for rate in rates.values())
    x = linear_axis("step", 0, 1.02 * steps[-1])
    return line_chart(
        f"EER % over steps; best at step {best_step:,}",
        lines,
        x,
        linear_axis("EER %", 0, highest * 1.06 or 1.0),
    )


def _det(corpus: str, shown: Sequence[Validation], names: Mapping[int, str]) -> Figure:
    lines: list[Line] = []
    lowest = 0.01
    for index, validation in enumerate(shown, start=1):
        eer = validation.eer(corpus)
        if eer is None:
            continue
        bonafide, spoof = validation.all if corpus == ALL else validation.by_corpus[corpus]
        lowest = min(lowest, 1 / bonafide.size, 1 / spoof.size)
        name = names[validation.step]
        marks = [(eer, eer, f"{name}: EER {_percent(eer)} %")]
        lines.append(Line(name, *det_curve(bonafide, spoof), index, marks=marks))
    x, y = (probit_axis(f"{name} %", max(lowest, 1e-4), 0.8) for name in ("false alarm", "miss"))
    return line_chart(f"DET: {corpus}", lines, x, y, has_diagonal=True)


def _dets(corpora: Sequence[str], shown: Sequence[Validation], names: Mapping[int, str]) -> list[Figure]:
    """One curve a corpus that has both classes; where there is only one, it stands above."""
    if len(corpora) == 1:
        return []
    return [_det(corpus, shown, names) for corpus in corpora if shown[-1].eer(corpus) is not None]


def _by_corpus(corpora: Sequence[str], shown: Sequence[Validation], names: Mapping[int, str]) -> Table:
    rows: list[list[Value]] = []
    for corpus in [*corpora, ALL] if len(corpora) > 1 else corpora:
        scores = shown[-1].all if corpus == ALL else shown[-1].by_corpus[corpus]
        rates = [validation.eer(corpus) for validation in shown]
        lowest = min((rate for rate in rates if rate is not None), default=None)
        cells = [
            Cell(_percent(rate), is_best=len(shown) > 1 and rate is not None and rate == lowest)
            for rate in rates
        ]
        rows.append([corpus, scores.bonafide.size, scores.spoof.size, *cells])
    titles = ["corpus", "bona fide", "spoof", *(names[validation.step] for validation in shown)]
    return Table(titles, rows, "EER %", num_totals=int(len(corpora) > 1))


def _histograms(corpora: Sequence[str], latest: Validation) -> list[Block]:
    blocks: list[Block] = [
        histogram(corpus, [("bona fide", bonafide, 1), ("spoof", spoof, 2)], "score")
        for corpus, (bonafide, spoof) in [
            (ALL, latest.all),
            *((corpus, latest.by_corpus[corpus]) for corpus in corpora[:NUM_LINES] if len(corpora) > 1),
        ]
    ]
    if len(corpora) > NUM_LINES:
        blocks.append(Text(f"{len(corpora) - NUM_LINES} smaller corpora are not drawn."))
    return blocks
