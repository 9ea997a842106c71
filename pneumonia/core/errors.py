"""Say what is wrong, what was expected and what to do."""

EXAMPLES = 5  # of images, at most, that a message names


class InputError(ValueError):
    """A value from outside that cannot be used.

    Raised once, at the boundary, and shown to people without a traceback.
    """

    def __init__(self, what: str, *, expected: str, remedy: str) -> None:
        super().__init__(f"{what}\n  Expected: {expected}\n  Remedy: {remedy}")
