"""Errors that the user can fix, and the hint that they end with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user wrote or owns is wrong; the message names the thing and the remedy.

    The command line prints the message as one line and exits with status 2. Any other exception is a bug and
    keeps its traceback.
    """


class UnavailableError(InputError):
    """A server does not answer or reports a temporary failure; retrying later may succeed."""


class UnreadableError(InputError):
    """One file cannot be read: its permissions, a loop of links, or a read error of the disk.

    Code that reads many files turns it into one row; elsewhere it ends the command like any `InputError`.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean NEAREST?` for an error message, or the list of known names if none is near."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else f"; known: {', '.join(names)}"
