"""How the card writes hours, values that are not there, and classes of values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from pipeline.card.tally import UNKNOWN_BITRATE, USUAL_KBITS, Key, duration_edge
from pipeline.data.corpora.manifest import ROLES
from pipeline.data.corpora.utterance import LABELS
from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot
from pipeline.report import Cell, Value

NOT_STATED = "not stated"

COLOURS = {"bonafide": 1, "spoof": 2}
"""Of the labels, on every page."""

TITLES = {"bonafide": "bona fide", "spoof": "spoof"}

LABELS_SHOWN = tuple(reversed(LABELS))
"""Bona fide first."""

NUM_NAMED = 3
"""Names that a list of shares spells out."""


def by_role(snapshot: Snapshot) -> dict[str, list[CorpusSnapshot]]:
    """The corpora by role, what trains before what evaluates."""
    found = snapshot.corpora.values()
    roles = {role: [corpus for corpus in found if corpus.role == role] for role in ROLES}
    return {role: corpora for role, corpora in roles.items() if corpora}


def hours_words(hours: float) -> str:
    """Hours with as many digits as they are worth; what is less than an hour in minutes or seconds."""
    if hours >= 1000:
        return f"{hours:,.0f} h"
    if hours >= 1:
        return f"{hours:.1f} h" if hours >= 10 else f"{hours:.2f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 30 else f"{3600 * hours:.0f} s"


def with_hours(rows: Iterable[Sequence[Value]], *columns: int) -> list[list[Value]]:
    """The rows of a table with the hours in these columns as the largest of them asks for; none looks like nothing."""
    table = [list(row) for row in rows]
    amounts = [row[column] for row in table for column in columns]
    largest = max((amount for amount in amounts if isinstance(amount, float)), default=0.0)
    decimals = 2 if largest >= 1 else 4
    for row in table:
        for column in columns:
            amount = row[column]
            if isinstance(amount, float):
                few = 0 < amount < 0.5 * 10**-decimals
                row[column] = Cell(f"< {10**-decimals:.{decimals}f}" if few else f"{amount:,.{decimals}f}")
    return table


def seconds_words(seconds: float) -> str:
    """A duration with its unit."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s"


def named_shares(amounts: Mapping[str, float]) -> str:
    """The largest of some amounts as shares of them all."""
    total = sum(amounts.values())
    ranked = by_size(amounts)
    if len(ranked) == 1 or not total:
        return ", ".join(ranked)
    parts = (f"{name} {_rounded(amounts[name] / total)}" for name in ranked[:NUM_NAMED])
    words = ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)
    more = len(ranked) - NUM_NAMED
    return f"{words}, {more} more" if more > 0 else words


def _rounded(share: float) -> str:
    return "< 1 %" if share < 0.005 else f"{100 * share:.0f} %"


def by_size(amounts: Mapping[str, float]) -> list[str]:
    """Names, that of the largest amount first."""
    return sorted(amounts, key=lambda name: (-amounts[name], name))


def listed(names: Collection[str], most: int = 12) -> str:
    """Names as a sentence has room for them."""
    words = ", ".join(list(names)[:most])
    return f"{words} and {len(names) - most} more" if len(names) > most else words


def percent_words(share: float) -> str:
    """A share in percent; what is not nothing does not look like it."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def value_words(column: str, value: object) -> str:
    """A value of a counted column as a person reads it."""
    if value is None:
        return "none (lossy)" if column == "bit_depth" else NOT_STATED
    if column == "bitrate_class":
        assert isinstance(value, int)
        return "unknown" if value == UNKNOWN_BITRATE else f"~ {USUAL_KBITS[value]} kbit/s"
    if column == "duration_class":
        assert isinstance(value, int)
        return f"{seconds_words(duration_edge(value))} to {seconds_words(duration_edge(value + 1))}"
    if column in ("sample_rate", "bandwidth"):
        assert isinstance(value, int)
        return f"{value / 1000:g} kHz"
    if column == "num_channels":
        return "mono" if value == 1 else "stereo" if value == 2 else f"{value} channels"
    return f"{value} bit" if column == "bit_depth" else str(value)


def key_words(columns: tuple[str, ...], key: Key) -> str:
    """A combination of values."""
    return ", ".join(value_words(column, value) for column, value in zip(columns, key, strict=True))
