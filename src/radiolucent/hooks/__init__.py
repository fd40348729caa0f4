"""Looking into a model that belongs to somebody else: the only room that hooks it or changes its mode.

Whatever touches the model is a context manager, and leaves it as it was found, also after an error.
"""

from radiolucent.hooks.attention import attending, flowing
from radiolucent.hooks.cost import Cost, costing
from radiolucent.hooks.guest import check_follows, check_items_apart, evaluating, mixes_items, out_of_memory
from radiolucent.hooks.layers import Layer, all_layers, depths, last_layer, layers, look, reaching, some, tensors_in
from radiolucent.hooks.moment import Moment
from radiolucent.hooks.randomising import groups, randomised, weighted
from radiolucent.hooks.replay import Recording, Replay, recording, replaying
from radiolucent.hooks.rewriting import MOVING, POOLING, Call, Rule, relus, rewriting
from radiolucent.hooks.sharing import InParts, OneInput, Sharing, guest_of
from radiolucent.hooks.taps import INPUT, Taps, tap
from radiolucent.hooks.tokens import Form, form_of

__all__ = [
    "INPUT",
    "MOVING",
    "POOLING",
    "Call",
    "Cost",
    "Form",
    "InParts",
    "Layer",
    "Moment",
    "OneInput",
    "Recording",
    "Replay",
    "Rule",
    "Sharing",
    "Taps",
    "all_layers",
    "attending",
    "check_follows",
    "check_items_apart",
    "costing",
    "depths",
    "evaluating",
    "flowing",
    "form_of",
    "groups",
    "guest_of",
    "last_layer",
    "layers",
    "look",
    "mixes_items",
    "out_of_memory",
    "randomised",
    "reaching",
    "recording",
    "relus",
    "replaying",
    "rewriting",
    "some",
    "tap",
    "tensors_in",
    "weighted",
]
