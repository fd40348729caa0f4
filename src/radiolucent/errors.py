"""The one exception: what was expected, what came, what to do."""


class BadInput(ValueError):
    """Something that was given cannot be used as it is.

    The message always has the same three parts, so that a user can act on it and a log can be read
    by a machine: what was `expected`, what was `got`, and what to `do`.
    """

    def __init__(self, expected: str, got: str, do: str) -> None:
        super().__init__(f"expected {expected}; got {got}. {do}")
        self.expected = expected
        self.got = got
        self.do = do


class Nothing(BadInput):
    """There is nothing to explain in this image: no voxel of the label, no evidence. Another image may have it."""


class InputWarning(UserWarning):
    """Something that was given can be used, but not without a word about it."""
