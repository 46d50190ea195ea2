"""What can go wrong on one machine, each said in one line."""


class EmbeddedError(Exception):
    """An expected failure. Its text is one line that says what is wrong and what to do."""

    exit_code = 1


class AlreadyRunning(EmbeddedError):
    """The portal of this home directory runs already."""

    exit_code = 3


class NotRunning(EmbeddedError):
    """The portal of this home directory doesn't run."""

    exit_code = 3


class StopRequested(Exception):
    """Ctrl-C or SIGTERM arrived before the portal was ready."""
