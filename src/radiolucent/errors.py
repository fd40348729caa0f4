"""The one exception: what was expected, what came, what to do. And the one warning."""

import sys
import warnings


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


def warn(text: str) -> None:
    """An InputWarning at the caller's line: the first outside this package and PyTorch, however deep it comes from."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("radiolucent", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, InputWarning, stacklevel=level)
