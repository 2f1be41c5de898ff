"""The one exception that a user is meant to read."""


class GraceError(ValueError):
    """Bad input or a state that needs the user: the message says what was got, what was expected, and what to do."""
