"""What can go wrong, by whose fault. A failed request inside a search is a value (`Expansion.error`), not one of these."""


class TreesearchError(Exception):
    """Base of all errors of this package. The message says the value, the reason, and what to do instead."""


class ConfigError(TreesearchError):
    """The user asked for something that cannot be: exit code 2."""


class ProblemError(ConfigError):
    """A problem set cannot be read; the message starts with file:line."""


class RunError(TreesearchError):
    """A run could not finish; what it had is on disk and resumable: exit code 1."""


class JournalError(RunError):
    """A journal does not belong to this run, or is damaged."""


class FrameError(TreesearchError):
    """Bytes from a journal or another process are not what was written."""


class RemoteError(TreesearchError):
    """An exception of another process: its class by name, and its message."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class RequestError(TreesearchError):
    """A backend refuses one job (too long, malformed reply, not recorded): asking again would not help."""


def told(error: BaseException) -> str:
    """`KIND: message`, the same whether it was raised here or in another process."""
    kind = error.kind if isinstance(error, RemoteError) else type(error).__name__
    return f"{kind}: {error}"
