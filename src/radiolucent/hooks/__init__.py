"""Looking into a model that belongs to somebody else: the only room that hooks it or changes its mode.

Everything here is a context manager, and leaves the model as it was found, also after an error.
"""

from radiolucent.hooks.attention import attending, flowing
from radiolucent.hooks.guest import evaluating
from radiolucent.hooks.layers import Layer, last_layer, layers, look, tensors_in
from radiolucent.hooks.rewriting import rewriting
from radiolucent.hooks.taps import INPUT, Taps, editing, tap
from radiolucent.hooks.tokens import Form, form_of

__all__ = [
    "INPUT",
    "Form",
    "Layer",
    "Taps",
    "attending",
    "editing",
    "evaluating",
    "flowing",
    "form_of",
    "last_layer",
    "layers",
    "look",
    "rewriting",
    "tap",
    "tensors_in",
]
