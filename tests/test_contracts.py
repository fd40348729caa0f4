"""Contracts: what every method owes to the model, to the caller and to itself. A method's line in METHODS covers it."""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import tomli_w
import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from worlds import Breaks, Segmenter, Spread, Transformer, classifier, image, relative

import radiolucent.methods as methods_page
from radiolucent import METHODS, BadInput, Logits, Outputs, Region
from radiolucent.methods import as_dict, from_dict
from radiolucent.models import SliceModel
from radiolucent.protocols import Method, Target

TASKS = ("classification", "regression", "segmentation")
HOOKS = [name for name in vars(nn.Module()) if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))]


def small(name: str) -> Method:
    """The method with few repetitions, and plain methods where it needs some."""
    values: dict[str, Any] = {}
    for field in fields(METHODS[name]):
        if field.name in ("steps", "samples"):
            values[field.name] = 20 if name == "kernel-shap" else 3  # all coalitions of 2 x 2 cubes, some of 2 x 2 x 2
        elif field.name in ("window", "stride", "cells", "cubes", "batch"):
            values[field.name] = {"window": 3, "stride": 2, "cells": 2, "cubes": 2, "batch": 1}[field.name]
        elif field.name == "n":  # fewer units than the layers here have
            values[field.name] = 3
        elif field.name in ("sigma", "tolerance", "iterations"):  # a mask that counts as converged as soon as it may
            values[field.name] = {"sigma": 1.0, "tolerance": 1e9, "iterations": 6}[field.name]
        elif field.type == "Method" and field.name == "second":
            values[field.name] = methods_page.HiResCAM()
        elif field.type == "Method":
            values[field.name] = methods_page.InputXGradient()
    return METHODS[name](**values)


@dataclass
class World:
    """A model, images, and targets for some of its outputs and some of the images."""

    model: nn.Module
    x: Tensor
    target: Callable[..., Target]
    bad: Target


def world(task: str, axes: int, batch: int = 2, name: str = "") -> World:
    """The model suits the method `name`: a transformer where that needs attention, pooled slices where it needs those."""
    torch.manual_seed(3)
    x = image(axes, batch, size=8)
    if getattr(METHODS.get(name), "needs", "") == "slices":
        return _sliced_world(task, axes, x)
    attends = getattr(METHODS.get(name), "needs", "") == "attention"
    if task == "segmentation":
        mask = torch.randint(0, 3, (batch, *x.shape[2:]))
        model = Transformer(axes, 3, segments=True) if attends else Segmenter(axes)
        return World(model, x, lambda *t, items=slice(None): Region(*t, mask=mask[items]), Region(1))
    kind = Logits if task == "classification" else Outputs
    return World(
        nn.Sequential(Transformer(axes)) if attends else classifier(axes), x, lambda *t, items=slice(None): kind(*t), kind(99)
    )


def _sliced_world(task: str, axes: int, x: Tensor) -> World:
    if axes == 2:
        pytest.skip("an image has no slices: test_slice_methods.py has the refusal")
    model = SliceModel(classifier(2), outputs=3, pooling_arguments={"heads": 2})
    if task == "segmentation":
        mask = torch.randint(0, 3, (len(x), *x.shape[2:]))
        return World(Spread(model), x, lambda *t, items=slice(None): Region(*t, mask=mask[items]), Region(1))
    kind = Logits if task == "classification" else Outputs
    return World(nn.Sequential(model), x, lambda *t, items=slice(None): kind(*t), kind(99))


def disturb(model: nn.Module) -> None:
    """A guest in the middle of its training: mixed modes, some weights frozen, some gradients there."""
    for number, module in enumerate(model.modules()):
        module.training = number % 3 != 1
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 3 != 0)
        if number % 2:
            parameter.grad = torch.randn_like(parameter)


def state(model: nn.Module) -> dict[str, Any]:
    """All that must stay, in values that compare exactly."""
    found: dict[str, Any] = {
        "rng": torch.get_rng_state().tolist(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "function modes": _get_current_function_mode_stack(),
    }
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found[f"{name} itself"] = id(tensor)
        found[f"{name} values"] = tensor.detach().numpy().tobytes()
        found[f"{name} wants"] = tensor.requires_grad
        found[f"{name} gradient"] = None if tensor.grad is None else (id(tensor.grad), tensor.grad.numpy().tobytes())
    for name, module in model.named_modules():
        found[f"{name} training"] = module.training
        found[f"{name} has"] = list(vars(module))
        found[f"{name} hooks"] = [len(getattr(module, hooks)) for hooks in HOOKS]
    return found


every_method = pytest.mark.parametrize("name", METHODS)
every_axes = pytest.mark.parametrize("axes", [2, 3])
every_task = pytest.mark.parametrize("task", TASKS)


def test_the_contracts_see_every_kind_of_hook() -> None:
    assert {"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"} <= set(HOOKS)


@every_task
@every_axes
@every_method
def test_model_and_input_are_left_as_found(name: str, axes: int, task: str) -> None:
    here = world(task, axes, name=name)
    disturb(here.model)
    x = here.x.clone().requires_grad_()
    x.grad = torch.ones_like(x)
    before, gradient = state(here.model), x.grad
    relevance = small(name)(here.model, x, here.target(1, 2))
    assert state(here.model) == before
    assert torch.equal(x.detach(), here.x)
    assert x.grad is gradient
    assert torch.equal(gradient, torch.ones_like(x))
    assert x.requires_grad
    assert not relevance.requires_grad


@every_task
@every_axes
@every_method
def test_a_failure_leaves_the_model_as_found(name: str, axes: int, task: str) -> None:
    here = world(task, axes, name=name)
    disturb(here.model)
    before = state(here.model)
    with pytest.raises(BadInput):
        small(name)(here.model, here.x, here.bad)
    assert state(here.model) == before
    raised = set()
    for where in ("forward", "backward", "again"):
        breaks = Breaks(where)
        broken = nn.Sequential(*(here.model if task != "segmentation" else [here.model]), breaks)
        disturb(broken)
        before = state(broken)
        said = ""
        try:
            small(name)(broken, here.x, here.target(1, 2))
        except RuntimeError as error:
            said = str(error)
        assert said == ("the model broke" if breaks.raised else ""), "an error of the model was swallowed"
        assert state(broken) == before
        raised |= {where} if said else set()
    # Without gradients there is no backward pass to break, and with one pass there is no second. Slice weights are read off
    # one pass, and no other comes before or after it. A backward pass from a layer does not meet what lies behind it.
    alone = {"slice-attention": {"forward"}, "attentive-response": {"forward", "again"}, "clear": {"forward", "again"}}
    assert raised >= {"forward", "backward"} or raised == alone.get(name, {"again"})


@every_task
@every_axes
@every_method
def test_a_batch_is_its_items_and_targets_together_are_targets_alone(name: str, axes: int, task: str) -> None:
    here, method = world(task, axes, batch=4, name=name), small(name)
    here.model, here.x = here.model.double(), here.x.double()  # differences of scores lose the last digits of single precision
    together = method(here.model, here.x, here.target(2, 0, 1))
    items = [slice(i, i + 1) for i in range(4)]
    alone = [method(here.model, here.x[i], here.target(2, 0, 1, items=i)) for i in items]
    assert relative(together, torch.cat(alone, 1)) <= 1e-5
    single = [method(here.model, here.x, here.target(t)) for t in (2, 0, 1)]
    assert relative(together, torch.cat(single)) <= 1e-5


@every_task
@every_axes
@every_method
def test_the_same_call_gives_the_same_map_whatever_mode_surrounds_it(name: str, axes: int, task: str) -> None:
    here, method = world(task, axes, name=name), small(name)
    first = method(here.model, here.x, here.target(1))
    torch.rand(1)  # the caller's random numbers do not matter
    assert torch.equal(method(here.model, here.x, here.target(1)), first)
    here.model.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(method(here.model, here.x, here.target(1)), first)
    with torch.inference_mode():
        assert torch.equal(method(here.model, here.x.clone(), here.target(1)), first)


@every_method
def test_settings_survive_toml_and_repr(name: str) -> None:
    for method in (small(name), methods_page.SmoothGrad(small(name), noise=0.25, seed=7)):
        text = tomli_w.dumps(as_dict(method))
        assert from_dict(tomllib.loads(text)) == method
        assert eval(repr(method), vars(methods_page).copy()) == method
        assert hash(method) == hash(from_dict(as_dict(method)))


@every_method
def test_a_method_says_what_it_is(name: str) -> None:
    method = small(name)
    assert isinstance(method, Method)
    assert method.unit
    text = methods_page.describe(method)
    assert text["name"] == name
    assert "R" in text["equation"]
    assert text["summary"].endswith(".")
    assert len(text["meaning"]) > 40


def test_bad_settings_are_refused_with_what_is_valid() -> None:
    refused = {
        "a method among gradient, .*got 'grad-cm'.*Did you mean .*grad-cam": {"method": "grad-cm"},
        "a method among gradient, .*got None": {},
        "a method among gradient, .*got 5": {"method": "smooth-grad", "of": 5},
        "fields of integrated-gradients among: steps, baseline, batch; got 'step'": {"method": "integrated-gradients", "step": 3},
        "fields of gradient among: none": {"method": "gradient", "layer": "x"},
        "int for the field steps of integrated-gradients; got 2.5": {"method": "integrated-gradients", "steps": 2.5},
        "int for the field steps of integrated-gradients; got True": {"method": "integrated-gradients", "steps": True},
        "int for the field steps of integrated-gradients; got 'many'": {"method": "integrated-gradients", "steps": "many"},
        "float for the field noise of smooth-grad; got {}": {"method": "smooth-grad", "noise": {}},
        "all fields of times: first, second": {"method": "times", "first": "gradient"},
    }
    for message, values in refused.items():
        with pytest.raises(BadInput, match=message):
            from_dict(values)


IMPOSSIBLE = {
    "int": (-1, 2.5, float("nan"), "three", True, None, 2**70),
    "int | tuple[int, ...]": (0, -1, (4, 0), (), 2.5, "three", None),
    "float": (-0.1, float("nan"), float("inf"), "three", True, None),
}


@every_method
def test_an_impossible_number_is_refused_when_the_method_is_made(name: str) -> None:
    method = small(name)
    for field in fields(method):
        for value in IMPOSSIBLE.get(field.type, ()):
            if (field.name, value) != ("seed", -1):
                with pytest.raises(BadInput, match=f"expected .*{field.name}.*; got {re.escape(repr(value))}"):
                    replace(method, **{field.name: value})


@pytest.mark.parametrize(
    ("name", "setting", "value", "message"),
    [
        ("smooth-grad", "samples", 0, "samples as a whole number >= 1; got 0. 25 is the default"),
        ("integrated-gradients", "steps", 0, "steps as a whole number >= 1"),
        ("expected-gradients", "samples", 0, "samples as a whole number >= 1"),
        ("rise", "samples", 0, "samples as a whole number >= 1"),
        ("rise", "shown", 0.0, "0 < shown <= 1; got 0.0"),
        ("rise", "shown", 2.0, "0 < shown <= 1; got 2.0"),
        ("occlusion", "window", 0, "window as a whole number >= 1, or one for each axis; got 0"),
        *[(name, "baseline", "black", "baseline among zero, .*got 'black'") for name in ("occlusion", "rise", "score-cam")],
        ("integrated-gradients", "baseline", 3, "baseline among zero, .*got 3"),
        ("lrp", "composite", "alpha", "composite among epsilon, epsilon-plus, epsilon-gamma; got 'alpha'"),
        ("lrp", "first", "zb", "first among same, flat, w2, box; got 'zb'"),
    ],
)
def test_a_setting_without_a_meaning_is_refused_when_the_method_is_made(
    name: str, setting: str, value: object, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        METHODS[name](**{setting: value})


def test_settings_come_as_text_from_the_command_line() -> None:
    values = {"method": "smooth-grad", "of": "grad-cam", "samples": "5", "noise": "0.2", "seed": 3}
    assert from_dict(values) == methods_page.SmoothGrad(methods_page.GradCAM(), samples=5, noise=0.2, seed=3)


def test_a_method_outside_the_list_cannot_be_saved() -> None:
    class Own(methods_page.GradCAM):
        """A method that METHODS does not know."""

    with pytest.raises(BadInput, match="a method from METHODS"):
        as_dict(Own())
