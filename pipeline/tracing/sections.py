"""The sections of a page about tracing, but those about single utterances."""

from __future__ import annotations

from pipeline.evaluation.concerns import format_value
from pipeline.report import Block, Cell, Section, Table, Text, Value
from pipeline.tracing import layout
from pipeline.tracing.results import SPACES, Candidate, Cascade, Results, SystemCount, TrialRates

NUM_SYSTEMS = 300
"""Maximum number of systems in a table; the JSON file has all."""

KEPT = (
    "system",
    "weights_digest",
    "variant",
    "policy",
    "precision",
    "decoder",
    "snapshot",
    "checkpoint",
    "store",
    "audio",
)
"""Entries of the descriptions of the scores that the page and the JSON file state."""

METRICS = {
    "accuracy": ("named correctly, nearest system", "%"),
    "macro_f1": ("macro F1, nearest system", ""),
    "neighbour_accuracy": ("named correctly, vote of neighbours", "%"),
    "neighbour_macro_f1": ("macro F1, vote of neighbours", ""),
    "auroc": ("AUROC of known against unknown", ""),
    "eer": ("EER of known against unknown", "%"),
    "fpr95": ("unknown taken for known, at 95 % of known (FPR95)", "%"),
}
"""Field of Rates → its title, and its unit."""

TARGETS = {
    "system": "same system",
    "attack": "same attack",
    "acoustic_model": "same acoustic model",
    "vocoder": "same vocoder",
}
"""What trials agree in → its name in words."""

SUMMARY = (
    "The first four rows are over utterances of known systems, and name a system even where the verdict is “unknown”. "
    "The others ask whether the similarity to the nearest system tells known from unknown systems. Intervals are those "
    "of 95 %, for which speakers or source files are drawn. “In the gallery” is measured without any new utterance: "
    "speakers are left out for known systems, and one system after the other for unknown ones. By chance, F1 is as "
    "stated if all systems are equally frequent."
)

CANDIDATES = (
    "The marked row is used. {how} The columns of new utterances and of confounding are shown, and never decide. "
    "Quality is the mean of macro F1 and AUROC in the gallery. Confounding is how well the same embeddings tell the "
    "corpus of bona fide speech, from 0 (chance) to 1: no system made that speech, so what tells its corpora apart is "
    "the recording, the speaker or the language."
)

TRIALS = (
    "Each trial asks whether two sets of utterances are from one system. Its score is the cosine of their means. The "
    "likelihood ratio was calibrated on trials of the gallery, of systems that the space had not seen. Cllr is 0 for "
    "perfect ratios, and 1 for ratios that say nothing."
)

MEANING = (
    "It cannot tell whether an utterance is a spoof: there is no bona fide system, and bona fide speech is given its "
    "nearest system, or called unknown. Only the detector's score tells, so trace what it calls spoof.",
    "A similarity is no proof of origin. Systems of one family, with the same vocoder or trained on the same speech, "
    "are similar, and so are recordings from one channel, codec, room or speaker. A system that is alone in its corpus "
    "cannot be told from that corpus.",
    "“Unknown” means: less similar to every system of the gallery than its own utterances are. A later version of a "
    "known system may be either. Utterances of known systems through another codec are often called unknown.",
    "The likelihood ratio holds for the systems, corpora and speech lengths of the gallery, and compares known with "
    "unknown as if both were equally probable. It says nothing about which of the known systems it was.",
)


def shown(name: str, value: float | None) -> str:
    """Format a metric; None becomes a dash."""
    return f"{100 * value:.1f} %" if value is not None and METRICS[name][1] == "%" else _decimals(value)


def summary_table(results: Results) -> Table:
    """Show every metric of the new utterances with its interval, beside the gallery and chance."""
    rates, share = results.best, 1 / len(results.systems)
    chances = dict.fromkeys(list(METRICS)[:4], share) | {"auroc": 0.5, "eer": 0.5, "fpr95": 0.95}
    rows: list[list[Value]] = []
    for name, (title, _) in METRICS.items():
        interval = results.intervals.get(name)
        note = "" if interval is None else f"{shown(name, interval[0])} – {shown(name, interval[1])}"
        rows.append(
            [
                title,
                Cell(shown(name, getattr(rates.new, name)), note),
                Cell(shown(name, getattr(rates.gallery, name))),
                Cell(shown(name, chances[name])),
            ]
        )
    return Table(["", "new utterances", "in the gallery", "by chance"], rows)


def systems_section(results: Results) -> Section:
    """Show the systems of the gallery."""
    systems = sorted(results.systems, key=lambda system: -system.num_utterances)
    total = sum(system.num_utterances for system in systems)
    columns = ["system", "utterances", "speakers or files", "corpora", "alone in its corpus"]
    blocks: list[Block] = [Table(columns, [_system(system) for system in systems[:NUM_SYSTEMS]])]
    if len(systems) > NUM_SYSTEMS:
        blocks.append(
            Text(f"{len(systems) - NUM_SYSTEMS} systems are omitted; {layout.TRACE_JSON} has all of them.")
        )
    named_by = f"the protocol {results.protocol}" if results.protocol else "the attacks of the manifests"
    blocks.append(
        Text(
            f"{len(systems):,} systems with {total:,} utterances, named by {named_by}. {_shared(results)} A system "
            "is alone in its corpus if all of its corpora have no other system."
        )
    )
    return Section("Gallery", blocks)


def _system(system: SystemCount) -> list[Value]:
    return [
        system.name,
        system.num_utterances,
        Cell(f"{system.num_clusters:,}", is_warning=system.num_clusters == 1 < system.num_utterances),
        ", ".join(system.corpora),
        Cell("yes", is_warning=True, is_word=True) if system.is_alone else "no",
    ]


def _shared(results: Results) -> str:
    number = results.num_shared_clusters
    if not number:
        return "No speaker or source file of new utterances of known systems is in it."
    verb = (
        "speaker or source file of new utterances of known systems is"
        if number == 1
        else ("speakers or source files of new utterances of known systems are")
    )
    return f"{number:,} {verb} in it as well."


def candidates_section(results: Results) -> Section:
    """Show every layer and space that was tried; the one that is used is marked."""
    rows = [
        _candidate(each, position == results.chosen, results)
        for position, each in enumerate(results.candidates)
    ]
    columns = [
        "layer",
        "space",
        "quality",
        "macro F1, gallery",
        "AUROC, gallery",
        "macro F1, new",
        "AUROC, new",
        "confounding",
    ]
    how = (
        "It was given, not chosen."
        if results.is_given
        else "It has the highest quality, which is measured in the gallery alone."
    )
    return Section("Layers", [Table(columns, rows), Text(CANDIDATES.format(how=how))])


def _candidate(candidate: Candidate, is_chosen: bool, results: Results) -> list[Value]:
    mark = f" ({'given' if results.is_given else 'chosen'})" if is_chosen else ""
    values = [
        candidate.quality,
        *(
            getattr(rates, name)
            for rates in (candidate.gallery, candidate.new)
            for name in ("macro_f1", "auroc")
        ),
        candidate.confounding,
    ]
    cells = [Cell(_decimals(value), is_best=is_chosen) for value in values]
    return [f"{candidate.layer}{mark}", SPACES[candidate.space], *cells]


def cascade_section(results: Results) -> list[Section]:
    """Show what happens if only what the detector calls spoof is traced; nothing if it has no threshold."""
    cascade = results.cascade
    if cascade is None:
        return []
    bonafide, spoof = _outcomes(cascade)
    rows: list[list[Value]] = []
    for label, outcomes in (("bona fide", bonafide), ("spoof", spoof)):
        total = sum(number for _, number, _ in outcomes)
        rows += [
            [f"{label}: {name}", Cell(f"{number:,}", f"{100 * number / total:.1f} %", is_best=is_right)]
            for name, number, is_right in outcomes
            if total
        ]
    text = (
        "The detector judges first, with its threshold, and only what it calls spoof is traced. Shares are those of "
        "bona fide utterances, and of spoofs whose system is stated. What is right is marked."
    )
    return [Section("Detector first", [Table(["outcome", "utterances"], rows), Text(text)])]


def _outcomes(cascade: Cascade) -> tuple[list[tuple[str, int, bool]], list[tuple[str, int, bool]]]:
    """Outcomes of bona fide utterances and of spoofs: name, number, and whether it is right."""
    return (
        [
            ("called bona fide", cascade.num_bonafide_kept, True),
            ("called spoof, and traced to a known system", cascade.num_bonafide_traced, False),
            ("called spoof, and unknown", cascade.num_bonafide_unknown, False),
        ],
        [
            ("called bona fide", cascade.num_spoof_missed, False),
            ("known system, traced to it", cascade.num_known_right, True),
            ("known system, traced to another one", cascade.num_known_wrong, False),
            ("known system, called unknown", cascade.num_known_rejected, False),
            ("unknown system, called unknown", cascade.num_unknown_rejected, True),
            ("unknown system, traced to a known one", cascade.num_unknown_accepted, False),
        ],
    )


def trials_section(results: Results) -> list[Section]:
    """Show the error rates of trials; nothing without them."""
    verification = results.verification
    if verification is None:
        return []
    rows = [_trial_rates(each) for each in verification.rates]
    text = f"{len(verification.rows):,} trials of {verification.source}; {layout.TRIALS_TABLE} has the score of each."
    blocks: list[Block] = []
    if rows:
        blocks.append(Table(["question", "trials", "same", "different", "EER", "AUROC", "Cllr"], rows))
    else:
        blocks.append(Text("The trials do not state whether they are the same, so there are no rates."))
    if verification.num_missing:
        number = verification.num_missing
        blocks.append(
            Text(
                f"{number:,} trials have no score, because an utterance of theirs has no embedding.",
                "warning",
            )
        )
    return [Section("Trials", [*blocks, Text(text), Text(TRIALS)])]


def _trial_rates(rates: TrialRates) -> list[Value]:
    return [
        TARGETS.get(rates.target, rates.target),
        rates.group,
        rates.num_same,
        rates.num_different,
        Cell(shown("eer", rates.eer)),
        Cell(_decimals(rates.auroc)),
        Cell(_decimals(rates.cllr)),
    ]


def _decimals(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def meaning_section() -> Section:
    """Say what tracing cannot tell."""
    return Section("What it cannot tell", [Text(text) for text in MEANING])


def identities_section(results: Results) -> Section:
    """Show everything that determines the verdicts."""
    rows: list[list[Value]] = [["scores", results.gallery_location, results.new_location]]
    rows += [
        [name.replace("_", " "), *(format_value(each.get(name)) for each in (results.gallery, results.new))]
        for name in KEPT
    ]
    settings, best = results.settings, results.best
    text = f"Layer {best.layer}, {SPACES[best.space]}; {settings.num_neighbours} neighbours vote; seed {settings.seed}."
    return Section("Scores and settings", [Table(["", "gallery", "new"], rows), Text(text)])
