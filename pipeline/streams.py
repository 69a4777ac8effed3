"""Standard output and error that survive a closed descriptor, a full device, and a terminal without Unicode."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

PLAIN_TEXT = {
    "×": "x",
    "·": "-",
    "…": "...",
    "−": "-",
    "–": "-",
    "±": "+/-",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "µ": "u",
}
"""ASCII for the characters of our own messages."""

FALLBACK = "bonafide.plain_text"
"""Name of the error handler for characters that a stream cannot encode."""


class OutputError(Exception):
    """Standard output cannot be written: its reader has closed it, or its device is full."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"standard output cannot be written: {cause.strerror}")
        self.is_closed_pipe = isinstance(cause, BrokenPipeError)


class _Descriptor(io.FileIO):
    """A file descriptor that leads to /dev/null after the first write that fails."""

    def __init__(self, number: int, *, is_optional: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.is_optional = is_optional
        """Whether failed writes are ignored; otherwise they raise OutputError."""
        self._failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        size = memoryview(data).nbytes
        if self._failure is None:
            try:
                while (
                    written := super().write(data)
                ) is None:  # another process made the terminal non-blocking
                    select.select([], [self], [])
                return written
            except OSError as error:
                self._failure = error
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.fileno())  # child processes write there, too
                os.close(null)
        if not self.is_optional:
            raise OutputError(self._failure) from self._failure
        return size


def run_with_safe_streams(command: str, work: Callable[[], int]) -> int:
    """Run a command so that trouble with its standard streams causes no traceback; returns the exit status.

    A descriptor that was closed leads to /dev/null, so that no file or socket takes its number. What a stream cannot
    encode is written as plain ASCII. Failed writes to standard error are ignored. A failed write to standard output
    ends the command, unless it has called `continue_without_output`.

    Args:
        command: the start of its messages: `bonafide corpora`.
        work: the command; returns an exit status.

    Returns:
        The exit status of `work`; 141 if the reader of standard output has closed it, as `head` does; 2 if it cannot
        be written for another reason.
    """
    with _safe_streams():
        try:
            try:
                status = work()
            except SystemExit:
                sys.stdout.flush()
                raise
            sys.stdout.flush()
        except OutputError as error:
            if error.is_closed_pipe:
                return 141
            print(f"{command}: {error}", file=sys.stderr)
            return 2
    return status


def continue_without_output() -> None:
    """Ignore failed writes to standard output from now on: the results of this command are files."""
    descriptor = _descriptor(sys.stdout)
    if descriptor is not None:
        descriptor.is_optional = True


@contextlib.contextmanager
def _safe_streams() -> Iterator[None]:
    """Replace the standard streams of the process; streams that a test has redirected stay as they are."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            assert opened == number, "open returns the lowest free descriptor"
            os.set_inheritable(number, True)
    before = sys.stdout, sys.stderr
    sys.stdout = _safe(sys.stdout, 1, is_optional=False)
    sys.stderr = _safe(sys.stderr, 2, is_optional=True)
    try:
        yield
    finally:
        if sys.stdout is not before[0]:
            continue_without_output()  # an earlier error counts, not that its output is lost
            sys.stdout.flush()
        sys.stdout, sys.stderr = before


def _safe(stream: TextIO | None, number: int, *, is_optional: bool) -> TextIO:
    """A safe replacement for a standard stream of the process; any other stream as it is."""
    if stream is not None:
        if _descriptor(stream) is not None or not _is_standard(stream, number):
            return stream
        stream.flush()
    descriptor = _Descriptor(number, is_optional=is_optional)
    return io.TextIOWrapper(
        io.BufferedWriter(descriptor),
        encoding=stream.encoding if stream is not None else "utf-8",
        errors=FALLBACK,
        line_buffering=True,  # commands run for days, and Ray prints the lines of its workers without flushing
    )


def _is_standard(stream: TextIO, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (OSError, ValueError):  # it only exists in memory
        return False


def _descriptor(stream: TextIO) -> _Descriptor | None:
    """What a safe stream writes to; None for any other stream."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Descriptor) else None


def _to_plain_text(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that cannot be encoded: by similar ASCII, else by escapes such as \\xe9."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(PLAIN_TEXT.get(character) or _escape(character) for character in text), error.end


def _escape(character: str) -> str:
    """Format a character as ASCII; in the name of a file, a byte that is not UTF-8 becomes \\xNN."""
    is_byte = "\udc80" <= character <= "\udcff"
    encoded = character.encode("ascii", "surrogateescape" if is_byte else "backslashreplace")
    return encoded.decode("ascii", "backslashreplace")


codecs.register_error(FALLBACK, _to_plain_text)
