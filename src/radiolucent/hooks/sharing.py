"""Modules that stand in for a guest: they share its weights, parts, mode and names, and run in another way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from radiolucent.errors import BadInput


class Sharing(nn.Module):
    """A module with another's parameters, buffers, parts and mode.

    What it lacks itself is looked up in the guest, and what is set on it is set there. A subclass keeps what is
    its own by way of `own`.
    """

    _guest: nn.Module

    def __init__(self, model: nn.Module, **own: Any) -> None:
        object.__setattr__(self, "_guest", model)
        training = model.training
        super().__init__()
        model.training = training  # nn.Module's constructor says True, which reaches the guest
        self.__dict__.update({name: model.__dict__[name] for name in ("_parameters", "_buffers", "_modules")}, **own)

    @property
    def training(self) -> bool:
        """The guest's mode."""
        return self._guest.training

    @training.setter
    def training(self, mode: bool) -> None:
        self._guest.training = mode

    def __getattr__(self, name: str) -> Any:
        if "_guest" not in self.__dict__ or name in ("_parameters", "_buffers", "_modules"):  # while a copy is made
            raise AttributeError(name)
        return getattr(self.__dict__["_guest"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__ or isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
        else:
            setattr(self._guest, name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__:
            object.__delattr__(self, name)
        else:
            delattr(self._guest, name)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own, with its own keys."""
        return self._guest.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own."""
        return self._guest.load_state_dict(*args, **kwargs)


def guest_of(model: nn.Module) -> nn.Module:
    """The model behind all that stands in for it; one that runs in parts is a model of its own."""
    while isinstance(model, Sharing) and not isinstance(model, InParts):
        model = model._guest
    return model


class OneInput(Sharing):
    """The model as a function of one of its inputs; the others stay, repeated where x comes in several copies.

    `where` is the position or the keyword of that input; `args` and `kwargs` are a whole call of the model.
    """

    _call: tuple[list[Any], dict[str, Any], int | str]

    def __init__(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], where: int | str) -> None:
        super().__init__(model, _call=(list(args), dict(kwargs), where))

    def forward(self, x: Tensor) -> Any:
        args, kwargs, where = self._call
        batch = len(args[where] if isinstance(where, int) else kwargs[where])
        copies = len(x) // batch

        def along(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            value = value.detach().clone()  # some models overwrite their inputs
            moves = copies > 1 and value.ndim > 0 and len(value) == batch
            return value.repeat(copies, *[1] * (value.ndim - 1)) if moves else value

        args, kwargs = tree_map(along, args), tree_map(along, kwargs)
        (args if isinstance(where, int) else kwargs)[where] = x
        return self._guest(*args, **kwargs)


class InParts(Sharing):
    """A model that runs its guest several times in one pass, on one part of the image after the other.

    Its layers are those of its guest, as they run on one part. None can be watched in a pass of the whole, where
    it has as many outputs as there are parts.
    """

    def is_whole(self, shape: Sequence[int]) -> bool:
        """Whether images (b, channels, *grid) of this shape are one part, which the guest sees as it is."""
        raise NotImplementedError

    def first_part(self, x: Tensor) -> Tensor:
        """What the guest is given first."""
        raise NotImplementedError


def check_whole(model: nn.Module, shape: Sequence[int]) -> None:
    """Refuse to watch the layers of a model that runs in several parts on images of this shape."""
    if isinstance(model, InParts) and not model.is_whole(shape):
        raise BadInput(
            "a model that sees the whole image at once, or a first-order method (Gradient, a CAM) on its layers",
            f"{type(model).__name__}, whose layers run once for each window",
            "Choose one of these or a method on the input, predict the whole in one window (--window whole) where memory "
            "allows, or explain one window, cut out, with the model inside it.",
        )
