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


class RequestError(TreesearchError):
    """A backend refuses one job (too long, malformed reply, not recorded): asking again would not help."""
