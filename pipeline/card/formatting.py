"""How the card orders and formats corpora, labels, hours, shares and the values of counted columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from pipeline.card.tally import BITRATE_BINS_KBITS, UNKNOWN_BITRATE, Key, duration_bin_edge
from pipeline.data.corpora.manifest import ROLES
from pipeline.data.corpora.utterance import LABELS
from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot
from pipeline.report import Cell, Value

NOT_STATED = "not stated"

LABEL_COLOURS = {"bonafide": 1, "spoof": 2}

LABEL_TITLES = {"bonafide": "bona fide", "spoof": "spoof"}

LABEL_ORDER = tuple(reversed(LABELS))
"""Bona fide first."""

MAX_SHARES = 3
"""How many shares `format_shares` lists before it counts the rest."""


def corpora_by_role(snapshot: Snapshot) -> dict[str, list[CorpusSnapshot]]:
    """Group corpora by role, training before evaluation; roles without corpora are left out."""
    corpora = snapshot.corpora.values()
    roles = {role: [corpus for corpus in corpora if corpus.role == role] for role in ROLES}
    return {role: members for role, members in roles.items() if members}


def names_by_size(amounts: Mapping[str, float]) -> list[str]:
    """Sort names by amount, largest first; ties are alphabetical."""
    return sorted(amounts, key=lambda name: (-amounts[name], name))


def format_list(names: Collection[str], max_names: int = 12) -> str:
    """Join names with commas; names beyond `max_names` are only counted."""
    text = ", ".join(list(names)[:max_names])
    return f"{text} and {len(names) - max_names} more" if len(names) > max_names else text


def format_not_audio(kinds: Mapping[str, int]) -> str:
    """Say how many files were left out by rule: "12 files are not audio: 8 .txt, 3 hidden, 1 .json"."""
    total = sum(kinds.values())
    listed = format_list([f"{kinds[kind]:,} {kind}" for kind in names_by_size(kinds)])
    return (
        f"{total:,} file is not audio: {listed}" if total == 1 else f"{total:,} files are not audio: {listed}"
    )


def format_hours(hours: float) -> str:
    """Format hours with about three digits; less than an hour is shown in minutes or seconds."""
    if hours >= 1000:
        return f"{hours:,.0f} h"
    if hours >= 1:
        return f"{hours:.1f} h" if hours >= 10 else f"{hours:.2f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 30 else f"{3600 * hours:.0f} s"


def format_hour_columns(rows: Iterable[Sequence[Value]], *columns: int) -> list[list[Value]]:
    """Format hour columns with the precision the largest value needs; small non-zero values print as "< 0.01".

    Args:
        rows: Rows of a table.
        columns: Positions of the columns to format; values that are not floats are left alone.
    """
    table = [list(row) for row in rows]
    amounts = [row[column] for row in table for column in columns]
    largest = max((amount for amount in amounts if isinstance(amount, float)), default=0.0)
    decimals = 2 if largest >= 1 else 4
    for row in table:
        for column in columns:
            amount = row[column]
            if isinstance(amount, float):
                rounds_to_zero = 0 < amount < 0.5 * 10**-decimals
                row[column] = Cell(
                    f"< {10**-decimals:.{decimals}f}" if rounds_to_zero else f"{amount:,.{decimals}f}"
                )
    return table


def format_seconds(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s"


def format_percent(share: float) -> str:
    """Format a fraction as a percentage with one decimal; small non-zero shares print as "< 0.1 %"."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def format_shares(amounts: Mapping[str, float]) -> str:
    """List the largest amounts as percentages of the total, such as "flac 97 %, mp3 3 %"."""
    total = sum(amounts.values())
    ranked = names_by_size(amounts)
    if len(ranked) == 1 or not total:
        return ", ".join(ranked)
    parts = (f"{name} {_format_whole_percent(amounts[name] / total)}" for name in ranked[:MAX_SHARES])
    text = ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)
    num_more = len(ranked) - MAX_SHARES
    return f"{text}, {num_more} more" if num_more > 0 else text


def _format_whole_percent(share: float) -> str:
    return "< 1 %" if share < 0.005 else f"{100 * share:.0f} %"


def format_value(column: str, value: object) -> str:
    """Format a value of a counted column with its unit."""
    if value is None:
        return {"bit_depth": "none (lossy)", "bandwidth": "not measured"}.get(column, NOT_STATED)
    if column == "bitrate_bin":
        assert isinstance(value, int)
        return "unknown" if value == UNKNOWN_BITRATE else f"~ {BITRATE_BINS_KBITS[value]} kbit/s"
    if column == "duration_bin":
        assert isinstance(value, int)
        return f"{format_seconds(duration_bin_edge(value))} to {format_seconds(duration_bin_edge(value + 1))}"
    if column in ("sample_rate", "bandwidth"):
        assert isinstance(value, int)
        return f"{value / 1000:g} kHz"
    if column == "num_channels":
        return "mono" if value == 1 else "stereo" if value == 2 else f"{value} channels"
    return f"{value} bit" if column == "bit_depth" else str(value)


def format_key(columns: tuple[str, ...], key: Key) -> str:
    """Format a combination of values, one for each column."""
    return ", ".join(format_value(column, value) for column, value in zip(columns, key, strict=True))
