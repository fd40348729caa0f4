"""The contestants of `attribution.py`: which map each package can make, ours first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from calling import (
    Run,
    as_grad_cam,
    as_medcam,
    captum,
    captum_hires_cam,
    captum_smooth_grad,
    grad_cam,
    grad_cam_guided,
    medcam,
    medcam_layers,
    monai_cam,
    monai_gradient,
    one_by_one,
    ours_full,
    ours_injected,
    ours_on,
    ours_together,
    torchcam,
    torchcam_ten,
    zennit_epsilon,
)
from cases import Case
from torch import Tensor

from radiolucent import methods as ours


@dataclass(frozen=True)
class Contestant:
    method: str
    package: str
    build: Callable[[Case], Run]
    note: str = ""
    shaped: Callable[[Tensor, Case], Tensor] | None = None
    """How our map is brought to the form of this one before they are compared (upsampling, scaling)."""
    compare: bool = True


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
        yield row("lrp, epsilon", "zennit", zennit_epsilon, "stabilises sums too", compare=False)

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
