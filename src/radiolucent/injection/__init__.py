"""A drop-in wrapper around a model: its own output, and maps on the side."""

from radiolucent.injection.maps import Maps
from radiolucent.injection.wrapper import Injected, Side, inject

__all__ = ["Injected", "Maps", "Side", "inject"]
