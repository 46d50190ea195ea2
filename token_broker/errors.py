"""What goes wrong in the broker, in words for an administrator."""


class BrokerError(Exception):
    """The broker can't do its work: its configuration, key, list or log is not as it must be."""


class Refusal(Exception):
    """This user gets no token. `reason` is a fixed word for programs and the audit log; the message is for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
