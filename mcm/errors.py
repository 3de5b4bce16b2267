"""The one way in which bad input is reported."""


class UserError(Exception):
    """Bad input: one line that says what was wrong, where, and what to do. Commands exit with status 2 on it."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))
