"""The contestants of `attribution.py`: every package called in its own documented way.

Each is built on its own copy of the model's modules (the parameters are shared), since several peers
leave hooks behind or replace modules. Building, that is registering hooks, is not timed.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lrp import zennit_epsilon
from torch import Tensor, nn

import radiolucent as rl
from radiolucent import methods as ours
from radiolucent.hooks import all_layers, look
from radiolucent.methods import at_layers, first_order, shared_pass
from radiolucent.protocols import Target

Run = Callable[[Tensor], Tensor | list[Tensor]]


@dataclass(frozen=True)
class Case:
    """One model with one input and what is explained about it."""

    name: str
    model: nn.Module
    x: Tensor
    layer: str
    """Where the CAM family looks."""
    last: str
    """The last layer with a grid that is not the output (the same one in a classifier)."""
    layers: tuple[str, ...]
    """Several layers, the shallowest first."""
    one: Target
    ten: Target
    label: int
    mask: Tensor | None = None
    """(b, *grid): the voxels of `label`, for segmentation."""

    def about(self, label: int) -> Case:
        """The same with another label to explain."""
        if self.mask is None:
            return replace(self, label=label, one=rl.Logits(label))
        with torch.no_grad():
            output = self.model(self.x)
        return replace(self, label=label, one=rl.Region(label).fix(output), mask=output.argmax(1) == label)

    def own(self) -> Case:
        """The same with modules of its own."""
        shared = {id(t): t for t in (*self.model.parameters(), *self.model.buffers())}
        return replace(self, model=copy.deepcopy(self.model, shared))

    @property
    def module(self) -> nn.Module:
        return self.model.get_submodule(self.layer)

    def classifier(self) -> tuple[nn.Module, int, str]:
        """For peers that know classes only: a module with output (b, classes), the class, the layer's name in it."""
        if self.mask is None:
            return self.model, self.label, self.layer
        return RegionScore(self.model, self.one), 0, f"model.{self.layer}"


class RegionScore(nn.Module):
    """A segmentation network and its target as a classifier of one class."""

    def __init__(self, model: nn.Module, target: Target) -> None:
        super().__init__()
        self.model, self.target = model, target

    def forward(self, x: Tensor) -> Tensor:
        return self.target(self.model(x)).T


@dataclass(frozen=True)
class Contestant:
    method: str
    package: str
    build: Callable[[Case], Run]
    note: str = ""
    shaped: Callable[[Tensor, Case], Tensor] | None = None
    """How our map is brought to the form of this one before they are compared (upsampling, scaling)."""
    compare: bool = True


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


CAMS = (ours.GradCAM, ours.GradCAMPlusPlus, ours.HiResCAM, ours.LayerCAM)
ALL_GRADIENTS = "computes the parameters' gradients too"
SCALED = "parameters' gradients; scales to 0..1"
UPSAMPLED = "parameters' gradients; upsamples, scales to 0..1"


def contestants(case: Case, n: int) -> Iterator[Contestant]:
    """All rows of one case, ours first in each method; n = points of IG and samples of SmoothGrad."""
    us, row, linear = "radiolucent", Contestant, {4: "bilinear", 5: "trilinear"}[case.x.ndim]
    alone = f"{ALL_GRADIENTS}; one image at a time" if len(case.x) > 1 else ALL_GRADIENTS
    yield row("gradient", us, ours_on(ours.Gradient()))
    yield row("gradient", "captum", captum("Saliency", abs=False))
    yield row("gradient", "monai", monai_gradient("VanillaGrad"), alone)
    yield row("guided-backprop", us, ours_on(ours.GuidedBackprop()))
    yield row("guided-backprop", "captum", captum("GuidedBackprop"))
    named = f"{alone}; changes modules named *relu*, here none"
    yield row("guided-backprop", "monai", monai_gradient("GuidedBackpropGrad"), named)
    yield row("guided-backprop", "medcam", medcam("gbp"), SCALED, as_medcam)
    yield row("guided-backprop", "grad-cam", grad_cam_guided, alone)
    yield row("grad-cam", us, ours_on(ours.GradCAM()))
    yield row("grad-cam", "captum", captum("LayerGradCam", True, relu_attributions=True))
    yield row("grad-cam", "torchcam", torchcam("GradCAM"))
    yield row("grad-cam", "monai", monai_cam("GradCAM"), f"{ALL_GRADIENTS}; compute_map: no upsampling")
    yield row("grad-cam", "grad-cam", grad_cam("GradCAM"), UPSAMPLED, as_grad_cam)
    yield row("grad-cam", "medcam", medcam("gcam"), SCALED, as_medcam)
    formula = "sum A g^3, not sum A * g^3; eps"
    yield row("grad-cam++", us, ours_on(ours.GradCAMPlusPlus()))
    yield row("grad-cam++", "torchcam", torchcam("GradCAMpp"), "divides a copy: no division; sum A g^3")
    yield row("grad-cam++", "monai", monai_cam("GradCAMpp"), f"{ALL_GRADIENTS}; {formula}")
    yield row("grad-cam++", "grad-cam", grad_cam("GradCAMPlusPlus"), f"{UPSAMPLED}; eps", as_grad_cam)
    yield row("grad-cam++", "medcam", medcam("gcampp"), f"{SCALED}; {formula}", as_medcam)
    yield row("hires-cam", us, ours_on(ours.HiResCAM()))
    yield row("hires-cam", "captum", captum_hires_cam, "LayerGradientXActivation, channels summed")
    yield row("hires-cam", "grad-cam", grad_cam("HiResCAM"), UPSAMPLED, as_grad_cam)
    yield row("layer-cam", us, ours_on(ours.LayerCAM()))
    yield row("layer-cam", "torchcam", torchcam("LayerCAM"))
    yield row("layer-cam", "grad-cam", grad_cam("LayerCAM"), UPSAMPLED, as_grad_cam)
    yield row("guided-grad-cam", us, ours_on(ours.GuidedGradCAM()))
    yield row("guided-grad-cam", "captum", captum("GuidedGradCam", True, interpolate_mode=linear))
    yield row("guided-grad-cam", "medcam", medcam("ggcam"), f"{SCALED}, Grad-CAM before the product too", as_medcam)
    integrated, smooth = f"integrated-gradients, {n}", f"smooth-grad, {n}"
    yield row(integrated, us, ours_on(ours.IntegratedGradients(steps=n)))
    yield row(integrated, "captum", captum("IntegratedGradients", n_steps=n), "all points in one batch")
    yield row(smooth, us, ours_on(ours.SmoothGrad(samples=n)))
    yield row(smooth, "captum", captum_smooth_grad(n), "all samples in one batch; other noise", compare=False)
    averaged = monai_gradient("SmoothGrad", stdev_spread=0.1, n_samples=n, magnitude=False, verbose=False)
    yield row(smooth, "monai", averaged, f"{alone}; other noise", compare=False)

    yield row("deconvnet", us, ours_on(ours.DeconvNet()))
    yield row("deconvnet", "captum", captum("Deconvolution"))
    yield row("eigen-cam", us, ours_on(ours.EigenCAM()))
    yield row("eigen-cam", "grad-cam", grad_cam("EigenCAM"), "upsamples, scales to 0..1; sign of its SVD", compare=False)
    yield row("lrp, epsilon", us, ours_on(ours.LRP("epsilon")))
    yield row("lrp, epsilon", "captum", captum("LRP"), "batch norm a layer of its own", compare=False)
    if case.mask is None:
        yield row(
            "lrp, epsilon", "zennit", lambda case: zennit_epsilon(case.model, case.label), "stabilises sums too", compare=False
        )

    yield row("grad-cam at all layers", us, ours_full, f"{medcam_layers(case)} layers")
    yield row("grad-cam at all layers", "radiolucent inject", ours_injected, "with the model's own output", compare=False)
    yield row("grad-cam at all layers", "medcam", medcam("gcam", "full"), SCALED, compare=False)

    yield row("gradient, 10 targets", us, ours_on(ours.Gradient(), many=True), "ten backward passes of one forward")
    yield row("gradient, 10 targets", "captum", one_by_one(captum("Saliency", abs=False)), compare=False)
    yield row("grad-cam, 10 targets", us, ours_on(ours.GradCAM(), many=True), case.layer)
    yield row("grad-cam, 10 targets", "captum", one_by_one(captum("LayerGradCam", True, relu_attributions=True)), compare=False)
    if case.mask is None:
        yield row("grad-cam, 10 targets", "torchcam", torchcam_ten("GradCAM"), "one forward, graph kept by hand", compare=False)
    yield row("grad-cam, 10 targets", "grad-cam", one_by_one(grad_cam("GradCAM")), UPSAMPLED, compare=False)
    yield row("grad-cam, 10 targets", "medcam", one_by_one(medcam("gcam")), SCALED, compare=False)

    # What no peer has in one call.
    for kind in CAMS:
        name = next(name for name, known in ours.METHODS.items() if known is kind)
        if case.last != case.layer:
            yield row(f"{name} at the last layer", us, ours_on(kind(), "last"), case.last)
        yield row(f"{name} at the last layer, 10 targets", us, ours_on(kind(), "last", many=True))
    yield row("grad-cam, layer=auto", us, ours_on(ours.GradCAM(), "auto"), "finds the layer by a forward of its own")
    for k in range(1, len(case.layers)):
        chosen = case.layers[-1 - k :]
        yield row(f"grad-cam at {chosen[0]}", us, ours_on(ours.GradCAM(), chosen[0]))
        several = ours_together(lambda case, chosen=chosen: [ours.GradCAM(layer) for layer in chosen])
        yield row(f"grad-cam at {len(chosen)} layers", us, several, f"from {chosen[0]}")
    yield row("16 CAMs and the gradient", us, ours_together(everything), "4 kinds at 4 layers")


def everything(case: Case) -> list[Any]:
    return [ours.Gradient(), *(kind(layer) for kind in CAMS for layer in case.layers)]


def make_case(name: str, quick: bool, stem_stride: int) -> Case:
    """`resnet3d`, `unet3d` or `resnet2d`: MONAI networks of random weights, in eval mode."""
    torch.manual_seed(0)
    if name == "unet3d":
        size = 32 if quick else 96
        unet = peer("monai.networks.nets.UNet")
        model = unet(3, 1, 11, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=1, norm="instance", act="relu").eval()
        x = torch.rand(1, 1, size, size, size)
        inner = "model" + ".1.submodule" * 3
        layers = ("model.0", "model.1.submodule.0", "model.1.submodule.1.submodule.0", inner)
        with torch.no_grad():
            output = model(x)
        one, ten = rl.Region(1).fix(output), rl.Region(*range(1, 11)).fix(output)
        return Case(name, model, x, inner, "model.2.1.conv", layers, one, ten, 1, output.argmax(1) == 1)
    dims = {"resnet3d": 3, "resnet2d": 2}[name]
    size = ((64 if quick else 224),) * 2 if dims == 2 else ((48 if quick else 96),) * 3
    batch, channels = ((2 if quick else 8), 3) if dims == 2 else (1, 1)
    resnet = peer("monai.networks.nets.resnet18")
    model = resnet(spatial_dims=dims, n_input_channels=channels, num_classes=10, conv1_t_stride=stem_stride).eval()
    x = torch.rand(batch, channels, *size)
    with torch.no_grad():
        label = int(model(x).sum(0).argmax())
    layers = tuple(f"layer{i}" for i in range(1, 5))
    return Case(name, model, x, "layer4", "layer4", layers, rl.Logits(label), rl.Logits(*range(10)), label)
