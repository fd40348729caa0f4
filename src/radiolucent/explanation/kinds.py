"""What is of the wrong kind is refused at the door, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from radiolucent.errors import BadInput
from radiolucent.protocols import Method, Target


def check_kinds(methods: Any, targets: Any) -> None:
    """Refuse what is no method or no target at all."""
    if isinstance(methods, (str, Method)) or not isinstance(methods, Sequence) or not methods:
        raise BadInput("a list of methods", f"{methods!r:.80}", "For example [GradCAM(), Gradient()].")
    for method in methods:
        if isinstance(method, type) or not isinstance(method, Method):
            do = "Make one, as GradCAM() from radiolucent.methods; radiolucent.METHODS has them by name."
            raise BadInput("a method with its settings", f"{method!r:.80}", do)
    check_target(targets)


def check_target(targets: Any) -> None:
    """Refuse what is no target."""
    if isinstance(targets, type) or not isinstance(targets, Target):
        raise BadInput("a target", f"{targets!r:.80}", "For example Logits(1), Outputs() or Region(1).")
