"""One forward pass, and one backward pass per target: values and gradients at several layers, handed over as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.hooks import Form, Taps, evaluating, form_of, layers, some, tap
from radiolucent.protocols import Target
from radiolucent.scoring import check_scores

Take = Callable[[int, str, Tensor, Tensor], None]
"""Takes (t, layer, value, dS_t/d value), both (b, c, *cells) in float32 at least. A second call for the same t and
layer, with a gradient that did not leave the range of float16, replaces the first."""


@dataclass(frozen=True, eq=False)
class Passed:
    """What a pass leaves behind.

    places: what was caught at each layer that can serve, and `forms` how it holds its cells.
    unfit: why the others cannot.
    vanished: float16 did not suffice for the gradients.
    """

    places: Mapping[str, Tensor]
    forms: Mapping[str, Form]
    unfit: Mapping[str, BadInput]
    vanished: bool

    def value(self, name: str) -> Tensor:
        """The value at a layer, (b, c, *cells), in float32 at least."""
        return _value(self.places[name], self.forms[name])


def one_pass(
    model: nn.Module, x: Tensor, targets: Target, names: Sequence[str], take: Take, rows: Iterable[int] | None = None
) -> Passed:
    """Hand over value and gradient at each of the layers `names`, for each target, or for the `rows` among them.

    The graph starts at the shallowest layer and holds no parameter gradients. Each layer's gradient is handed over as
    soon as the backward pass has it, and then let go.
    """
    with evaluating(model), tap(model, names) as taps:
        scores = targets(model(taps.input(x)))
        places, forms, unfit = _places(model, taps, names, x)
        if places:
            check_scores(scores, len(x))
            check_differentiable(scores)
        vanished = False
        chosen = [t for t in (range(len(scores)) if rows is None else rows) if places]
        for t in chosen:
            found, too_small = _gradients(scores[t], places, forms, partial(take, t), retain_graph=t != chosen[-1])
            vanished = vanished or too_small
            for name in places.keys() - found:
                unfit[name] = _no_path(name)
    return Passed(places, forms, unfit, vanished)


def _places(
    model: nn.Module, taps: Taps, names: Sequence[str], x: Tensor
) -> tuple[dict[str, Tensor], dict[str, Form], dict[str, BadInput]]:
    """What was caught at the layers that can serve, how it holds its cells, and why the others cannot."""
    places, forms, unfit = {}, {}, {}
    taps.over()
    for name in names:
        try:
            places[name], forms[name] = taps[name], spatial_form(model, name, taps[name], x)
        except BadInput as error:
            unfit[name] = error
    return {name: places[name] for name in forms}, forms, unfit


def _gradients(
    score: Tensor, places: Mapping[str, Tensor], forms: Mapping[str, Form], take: Callable[..., None], retain_graph: bool
) -> tuple[set[str], bool]:
    """One target's backward pass: the layers from which a path leads to the score; did float16 not suffice?

    Batch items do not mix in eval mode, so each has its own gradient. It is used in float32 at least.
    """
    half = torch.float16 in {score.dtype, *(place.dtype for place in places.values())}
    found: set[str] = set()
    # Gradients of a volume's voxels are below the range of float16: they travel enlarged, unless that is too much.
    for scale in (1024.0, 1.0) if half else (1.0,):
        finite, vanished = True, False

        def arrive(gradient: Tensor, name: str, scale: float = scale) -> None:
            nonlocal finite, vanished
            vanished = vanished or (half and not gradient.any())
            gradient = _wide(gradient) / scale if half else _wide(gradient)
            finite = finite and (not half or bool(torch.isfinite(gradient).all()))
            take(name, _value(places[name], forms[name]), forms[name].restore(gradient))
            found.add(name)

        with ExitStack() as stack:
            for name, place in places.items():
                stack.callback(place.register_hook(partial(arrive, name=name)).remove)
            starts = [place for place in places.values() if place.is_leaf] or list(places.values())
            torch.autograd.grad(
                score, starts, torch.full_like(score, scale), retain_graph=retain_graph or scale != 1, allow_unused=True
            )
        if finite:
            break
    return found, vanished


def _no_path(name: str) -> BadInput:
    return BadInput(
        f"a layer that the target depends on, not {name!r}",
        "no path from it to the score",
        "Choose a layer on the way to this output.",
    )


def _value(place: Tensor, form: Form) -> Tensor:
    return form.restore(_wide(place.detach()))


def _wide(values: Tensor) -> Tensor:
    """At least float32: the products and means of small half-precision gradients vanish."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def spatial_form(model: nn.Module, name: str, output: Tensor, x: Tensor) -> Form:
    """How a layer's output holds its cells; an error where it has none."""
    what = f"layer {name!r}" if name else "the input"
    form = form_of(model, name, output, x.shape)
    if form is not None:
        return form
    if output.ndim == x.ndim and len(output) != len(x):
        raise BadInput(
            f"{len(x)} batch items at {what}, as in the input",
            f"shape {tuple(output.shape)}",
            "Choose a layer that does not fold another axis (slices, patches) into the batch.",
        )
    raise BadInput(
        f"a grid of {max(x.ndim - 2, 1)} axes and several cells at {what}",
        f"shape {tuple(output.shape)}",
        f"These have one: {some([layer.name for layer in layers(model, x) if layer.is_spatial])}.",
    )


def check_differentiable(scores: Tensor) -> None:
    """Refuse scores that no gradient leads to."""
    if not scores.requires_grad:
        raise BadInput(
            "scores that depend on the layer in a differentiable way",
            "scores without a gradient (argmax, detach, no_grad or reentrant checkpointing in the model, or a layer off the path)",
            "Explain the logits before the argmax, or choose a perturbation method.",
        )
