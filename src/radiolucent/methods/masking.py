"""Masks on the features of layers, with the network before them run once: what the methods share that look for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.hooks import (
    Form,
    Replay,
    check_follows,
    check_items_apart,
    evaluating,
    form_of,
    mixes_items,
    recording,
)
from radiolucent.methods.backward import check_differentiable, spatial_form
from radiolucent.methods.descent import Descended
from radiolucent.methods.gradient import layer_of, plain
from radiolucent.protocols import Detailed, Target
from radiolucent.scoring import NUMBERS, Copies, check_scores, in_chunks
from radiolucent.targets import Contrast, Logits, Outputs, Select
from radiolucent.targets.parts import part_of

Told = tuple[Tensor, Sequence[Mapping[str, Any]]]
"""A map (t, b, 1, *cells), and for each target what there is to say besides."""


class Behind:
    """The part of a model behind one layer, whose features are multiplied by masks.

    scores: the unmasked scores (t, b). output: the unmasked output. alone: no two copies may share a pass. shared: what a
    method has found that holds for all targets.
    """

    def __init__(self, replay: Replay, form: Form, targets: Target, alone: bool = False) -> None:
        self.A = self._copies = replay.value.detach()
        self.cells, self.output = form.cells, replay.output
        self._replay, self._form, self._targets, self._alone = replay, form, targets, alone
        self.shared: dict[Any, Descended] = {}
        self.scores = wide(targets(replay.output).detach())
        check_scores(self.scores, len(self.A))

    def together(self, batch: int) -> int:
        """How many targets share a pass: `batch`, or for 0 as many as fit well."""
        return 1 if self._alone else batch or max(1, NUMBERS // max(1, self._replay.largest))

    def masked(self, M: Tensor) -> Any:
        """The output (k * b, ...) for masks (k, b, 1, *cells)."""
        if len(self._copies) != len(M) * len(self.A):  # once for many masks in a row
            self._copies = self.A.repeat(len(M), *[1] * (self.A.ndim - 1))
        return self._replay(self._form.weighted(self._copies, M.flatten(0, 1)))

    def chosen(self, output: Any) -> Any:
        """The part of an output that the targets are of."""
        return part_of(output, self._targets.key) if isinstance(self._targets, Select) else output

    def own(self, output: Any, which: Tensor) -> Tensor:
        """Of an output for k copies of the batch, each copy's score for its own target (k, b)."""
        scores = own_scores(output, self._targets, which, len(self.A))
        check_differentiable(scores)
        return scores

    def uniform(self, which: range, norm: float) -> Tensor:
        """Masks (k, b, 1, *cells) that are the same everywhere, with an L2 norm."""
        ones = wide(self.A.new_ones(len(which), len(self.A), 1, *self.cells))
        return ones * norm / ones[0, 0].norm()


@runtime_checkable
class MaskMethod(Detailed, Protocol):
    """A method that looks for masks on the features of one layer.

    All such methods, at any number of layers, share one pass of what lies before the layers.
    """

    @property
    def layer(self) -> str:
        """Dotted name of the module whose features are masked."""
        ...

    @property
    def batch(self) -> int:
        """How many targets share a pass; 0: as many as fit well."""
        ...

    def find(self, part: Behind, which: range) -> Descended:
        """The masks of some of the targets."""
        ...

    def told(self, found: Descended) -> Told:
        """The map (t, b, 1, *cells) and the details, of the masks of all targets."""
        ...


def masks(model: nn.Module, x: Tensor, targets: Target, methods: Sequence[MaskMethod]) -> list[Told | BadInput]:
    """What each method says, or why it says nothing, with all before the layers run once."""
    x = plain(x)
    check_items_apart(model, len(x))
    check_follows(model)
    auto = layer_of("auto", model, x, targets) if any(m.layer == "auto" for m in methods) else ""
    names = [auto if m.layer == "auto" else m.layer for m in methods]
    said: dict[int, Told | BadInput] = {}
    unfit: dict[str, Tensor] = {}
    with evaluating(model), recording(model, list(dict.fromkeys(names)), x) as recorded:
        for name in dict.fromkeys(names):
            here = [i for i, at in enumerate(names) if at == name]
            try:
                replay = recorded.behind(name)
            except BadInput as error:
                said |= dict.fromkeys(here, error)
                continue
            form = form_of(model, name, replay.value, x.shape)
            if form is None or form.in_slices or not replay.value.is_floating_point():
                unfit[name] = replay.value
                continue
            part = Behind(replay, form, targets, mixes_items(model))
            said |= {i: _said(part, methods[i]) for i in here}
    reasons = {name: _reason(model, x, name, value) for name, value in unfit.items()}  # which runs the model as it is
    return [said[i] if i in said else reasons[name] for i, name in enumerate(names)]


def _said(part: Behind, method: MaskMethod) -> Told | BadInput:
    size = part.together(method.batch)
    try:
        found = [found for _, found in in_chunks(len(part.scores), size, partial(method.find, part))]
    except BadInput as error:
        return error
    return method.told(Descended.joined(found))


def only(model: nn.Module, x: Tensor, targets: Target, method: MaskMethod) -> Told:
    """`masks` of one method; a layer that cannot serve is an error."""
    (said,) = masks(model, x, targets, [method])
    if isinstance(said, BadInput):
        raise said
    return said


def _reason(model: nn.Module, x: Tensor, layer: str, value: Tensor) -> BadInput:
    """Why the features of a layer cannot be masked."""
    try:
        spatial_form(model, layer, value, x)
    except BadInput as error:
        return error
    got = f"layer {layer!r} of a 2D network that runs slice by slice, or of whole numbers"
    return BadInput("a layer of real numbers that sees the whole image", got, "Choose another layer, or a CAM.")


def own_scores(output: Any, targets: Target, which: Tensor, b: int) -> Tensor:
    """Of an output for k copies of a batch of b in a row, the score of copy i for target which[i]: (k, b)."""
    k = len(which)
    inner = targets.target if isinstance(targets, Select) else targets
    apart = isinstance(inner, (Logits, Outputs, Contrast))  # the same for every item, so that all copies go through at once
    scores = targets(output) if apart else Copies(targets, k, b)(output)
    if scores.ndim != 2 or scores.shape[1] != k * b:
        check_scores(scores, k * b)
    return wide(scores.unflatten(1, (k, b))[which, torch.arange(k, device=scores.device)])


def wide(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
