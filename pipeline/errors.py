"""The error that is the user's to mend."""


class InputError(ValueError):
    """Something the user wrote or owns is wrong; the message names the thing and the remedy.

    The command line prints the message as one line and exits with status 2. Any other exception is a bug and
    keeps its traceback.
    """


class UnavailableError(InputError):
    """A server does not answer, or says that it cannot now: to try again later may help, and nothing else will."""
