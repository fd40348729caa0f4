"""Every package called in its own documented way: from a case to a function that makes one map.

Each is built on its own copy of the model's modules (the parameters are shared), since several peers
leave hooks behind or replace modules. Building, that is registering hooks, is not timed.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from cases import Case
from torch import Tensor

import radiolucent as rl
from radiolucent import methods as ours
from radiolucent.hooks import all_layers, look
from radiolucent.methods import at_layers, first_order, shared_pass

Run = Callable[[Tensor], Tensor | list[Tensor]]


def declare_torchvision_operators() -> None:
    """Let PyPI's torchvision be imported beside the CPU build of torch.

    torchvision's compiled operators do not load there, and its import stops at "operator torchvision::nms
    does not exist" when it registers their fake (shape) implementations. The peers use none of them, so it
    is enough to declare the names that are missing; calling one would still raise.
    """
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    try:
        import_module("torchvision")
    except RuntimeError:
        text = (Path(spec.origin).parent / "_meta_registrations.py").read_text()
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in sorted(set(re.findall(r'"(?:torchvision::)?(\w+)"\)', text))):
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor x) -> Tensor")
        globals()["_declared"] = library  # the declarations live as long as this object
        import_module("torchvision")


def peer(path: str) -> Any:
    """`package.module.Name`, imported when asked for: a missing package is a listed error, not a crash."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def ours_on(method: Any, where: str = "layer", many: bool = False) -> Callable[[Case], Run]:
    """`method` of this package; a CAM looks at the case's `where`, or at what `where` itself names."""

    def build(case: Case) -> Run:
        there = ours.at_layer(method, getattr(case, where, where))
        targets = case.ten if many else case.one
        return lambda x: there(case.model, x, targets)

    return build


def ours_together(choose: Callable[[Case], list[Any]]) -> Callable[[Case], Run]:
    """Several methods or layers of this package in one call."""

    def build(case: Case) -> Run:
        return lambda x: first_order(case.model, x, case.one, choose(case))

    return build


def captum(kind: str, at_layer: bool = False, **settings: Any) -> Callable[[Case], Run]:
    def build(case: Case) -> Run:
        model, index, _ = case.classifier()
        method = peer(f"captum.attr.{kind}")(model, *[case.module] * at_layer)
        return partial(method.attribute, target=index, **settings)

    return build


def captum_hires_cam(case: Case) -> Run:
    products = captum("LayerGradientXActivation", True)(case)
    return lambda x: products(x).sum(1, keepdim=True)


def captum_smooth_grad(samples: int) -> Callable[[Case], Run]:
    def build(case: Case) -> Run:
        model, index, _ = case.classifier()
        method = peer("captum.attr.NoiseTunnel")(peer("captum.attr.Saliency")(model))
        settings = {"nt_type": "smoothgrad", "nt_samples": samples, "stdevs": 0.1, "target": index, "abs": False}
        return lambda x: method.attribute(x, **settings)

    return build


def monai_gradient(kind: str, **settings: Any) -> Callable[[Case], Run]:
    def build(case: Case) -> Run:
        model, index, _ = case.classifier()
        method = peer(f"monai.visualize.{kind}")(model, **settings)
        return lambda x: torch.cat([method(image, index=index) for image in x.split(1)])

    return build


def monai_cam(kind: str) -> Callable[[Case], Run]:
    def build(case: Case) -> Run:
        model, index, layer = case.classifier()
        method = peer(f"monai.visualize.{kind}")(nn_module=model, target_layers=layer)
        return lambda x: method.compute_map(x, class_idx=index)

    return build


def torchcam(kind: str) -> Callable[[Case], Run]:
    def build(case: Case) -> Run:
        extractor = peer(f"torchcam.methods.{kind}")(case.model, case.layer)
        if case.mask is None:
            what: dict[str, Any] = {"class_idx": case.label}
        else:
            mask = case.mask[0]
            what = {"targets": lambda output: (output[case.label] * mask).sum()}
        return lambda x: extractor(scores=case.model(x), normalized=False, **what)[0][:, None]

    return build


def grad_cam(kind: str) -> Callable[[Case], Run]:
    def build(case: Case) -> Run:
        cam = peer(f"pytorch_grad_cam.{kind}")(model=case.model, target_layers=[case.module])
        if case.mask is None:
            target = peer("pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget")(case.label)
        else:
            target = peer("pytorch_grad_cam.utils.model_targets.SemanticSegmentationTarget")(case.label, case.mask[0].numpy())
        return lambda x: torch.from_numpy(cam(input_tensor=x, targets=[target] * len(x)))[:, None]

    return build


def grad_cam_guided(case: Case) -> Run:
    model, index, _ = case.classifier()
    method = peer("pytorch_grad_cam.GuidedBackpropReLUModel")(model=model, device="cpu")
    return lambda x: torch.stack([torch.from_numpy(method(image, index)).permute(2, 0, 1) for image in x.split(1)])


def medcam(backend: str, layer: str = "") -> Callable[[Case], Run]:
    def build(case: Case) -> Run:
        model = peer("medcam.medcam.inject")(case.model, backend=backend, layer=layer or case.layer)
        label: Any = case.label
        if case.mask is not None:  # a function of the output gives the weights of its values
            here = torch.arange(11) == case.label
            label = lambda output: case.mask[:, None] & here[:, None, None, None]  # noqa: E731
        if layer == "full":  # its test of the layers would double the first call
            model.test_run(case.x.clone(), internal=True)
        model.medcam_dict["tested"] = True

        def run(x: Tensor) -> Tensor:
            model(x, label=label)
            return x if layer == "full" else torch.as_tensor(model.get_attention_map())

        return run

    return build


def medcam_layers(case: Case) -> int:
    """How many of our "full" layers there are."""
    return len(all_layers(look(case.model, case.x)[1]))


def ours_full(case: Case) -> Run:
    """Every layer with a grid in one call."""
    methods = at_layers(ours.GradCAM("full"), look(case.model, case.x)[1])
    return lambda x: shared_pass(case.model, x, case.one, methods)


def ours_injected(case: Case) -> Run:
    """The same as a user of `inject` meets it, under no_grad."""
    model = rl.inject(case.model, "grad-cam", layer="full", target=case.one)

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return model(x)

    run(case.x.clone())  # the first call finds the layers
    return run


def one_by_one(build: Callable[[Case], Run]) -> Callable[[Case], Run]:
    """A peer that explains one target per call, ten times."""

    def ten(case: Case) -> Run:
        labels = range(10) if case.mask is None else range(1, 11)
        runs = [build(case.about(label)) for label in labels]
        return lambda x: [run(x) for run in runs]

    return ten


def torchcam_ten(kind: str) -> Callable[[Case], Run]:
    """torchcam can keep the graph: one forward for ten targets."""

    def build(case: Case) -> Run:
        extractor = peer(f"torchcam.methods.{kind}")(case.model, case.layer)

        def run(x: Tensor) -> list[Tensor]:
            scores = case.model(x)
            return [extractor(class_idx=k, scores=scores, normalized=False, retain_graph=k < 9)[0] for k in range(10)]

        return run

    return build


def as_grad_cam(relevance: Tensor, case: Case) -> Tensor:
    """Our map through grad-cam's own upsampling and scaling."""
    scale, size = peer("pytorch_grad_cam.utils.image.scale_cam_image"), tuple(case.x.shape[:1:-1])
    return torch.from_numpy(scale(scale(relevance.relu()[:, 0].numpy(), size).clip(min=0)))[:, None]


def as_medcam(relevance: Tensor, case: Case) -> Tensor:
    """Our map in medcam's form: mean of the channels, from 0 to 1 in each image."""
    flat = relevance.mean(1, keepdim=True).flatten(2)
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    return ((flat - low) / (high - low)).reshape(len(relevance), 1, *relevance.shape[2:])


def zennit_epsilon(case: Case) -> Run:
    """The epsilon rule everywhere, batch norm merged, by the recipe that the tests compare with."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import zennits

    model = copy.deepcopy(case.model)  # merging changes the weights
    rule = zennits.zennit("rules.Epsilon")(1e-6)
    zennits.composite(rule, rule, 1e-6).register(model)
    return lambda x: zennits.relevance(model, x, case.label)
