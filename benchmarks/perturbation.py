"""What perturbation methods cost: Occlusion against captum, Score-CAM and Ablation-CAM against pytorch-grad-cam.

    python benchmarks/perturbation.py --only occlusion --targets 1   # 96^3, 12^3 windows at stride 6: 3375 forwards each
    python benchmarks/perturbation.py --only occlusion --stride 21   # 125 windows, one and ten targets
    python benchmarks/perturbation.py --only cams --runs 5
    python benchmarks/perturbation.py --size 24 --window 8 --stride 8 --image 64 --runs 2      # does it work?

Ours and theirs alternate; medians of the runs after a warm-up; peak memory above rest, each in a process of its own.
For captum, S(x) and each window is one forward (perturbations_per_eval=1, its default) and each target a run of its
own. The 3D network is MONAI's ResNet-18, its four stages `--width` times 1, 2, 4 and 8 channels wide.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
warnings.filterwarnings("ignore")


def occlusion(o: argparse.Namespace) -> tuple[dict[str, Callable[[], Tensor]], nn.Module, Tensor]:
    from captum.attr import Occlusion as Captum
    from monai.networks.nets import ResNet

    from radiolucent import Logits
    from radiolucent.methods import Occlusion

    torch.manual_seed(0)
    planes = [o.width * n for n in (1, 2, 4, 8)]
    net = ResNet("basic", [2, 2, 2, 2], planes, spatial_dims=3, n_input_channels=1, num_classes=10, conv1_t_stride=2).eval()
    x = torch.rand(1, 1, o.size, o.size, o.size)
    window, stride = (o.window,) * 3, (o.stride,) * 3
    ours = Occlusion(window, stride)

    def theirs(targets: range) -> Tensor:
        with torch.no_grad():
            return torch.stack([Captum(net).attribute(x, (1, *window), strides=(1, *stride), target=t) for t in targets])

    rows: dict[str, Callable[[], Tensor]] = {}
    for n in o.targets or (1, 10):
        rows[f"ours, {n} targets"] = lambda n=n: ours(net, x, Logits(*range(n)))
        rows[f"captum, {n} targets"] = lambda n=n: theirs(range(n))
    return rows, net, x


def cams(o: argparse.Namespace) -> tuple[dict[str, Callable[[], Tensor]], nn.Module, Tensor]:
    from calling import declare_torchvision_operators
    from monai.networks.nets import resnet18

    declare_torchvision_operators()
    import tqdm

    tqdm.tqdm = lambda it, *a, **k: it  # no bars
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    from radiolucent import Logits
    from radiolucent.methods import AblationCAM, ScoreCAM

    torch.manual_seed(0)
    net = resnet18(spatial_dims=2, n_input_channels=3, num_classes=10, conv1_t_stride=2).eval()
    net.fc.weight.data.abs_()
    net.fc.bias.data.abs_()  # S > 0
    x = torch.rand(1, 3, o.image, o.image)

    def theirs(kind: type, targets: range) -> Tensor:
        with kind(net, [net.layer4]) as cam:
            return torch.stack([torch.from_numpy(cam(x, [ClassifierOutputTarget(t)])) for t in targets])

    rows: dict[str, Callable[[], Tensor]] = {}
    pairs = (("score-cam", ScoreCAM, pytorch_grad_cam.ScoreCAM), ("ablation-cam", AblationCAM, pytorch_grad_cam.AblationCAM))
    for name, ours, kind in pairs:
        for targets in map(range, o.targets or (1, 10)):
            many = f"{name}, {len(targets)} target{'s' * (len(targets) > 1)}"
            rows[f"ours {many}"] = lambda ours=ours, targets=targets: ours("layer4")(net, x, Logits(*targets))
            rows[f"grad-cam {many}"] = partial(theirs, kind, targets)
    return rows, net, x


GROUPS = {"occlusion": occlusion, "cams": cams}


def peak(group: str, row: str) -> str:
    """MiB above rest, in a fresh process."""
    arguments = [a for a in sys.argv[1:] if not a.startswith("--peak")]
    done = subprocess.run(
        [sys.executable, __file__, *arguments, "--peak", json.dumps([group, row])], capture_output=True, text=True
    )
    return done.stdout.strip().split("\n")[-1] if done.returncode == 0 else f"? {done.stderr[-200:]}"


def compare(group: str, rows: dict[str, Callable[[], Tensor]], results: dict[str, Tensor]) -> None:
    names = list(rows)
    for ours, theirs in zip(names[::2], names[1::2], strict=True):
        a, b = results[ours], results[theirs]
        if group == "cams":
            from pytorch_grad_cam.utils.image import scale_cam_image

            size = tuple(b.shape[:1:-1])
            a = torch.stack([torch.from_numpy(scale_cam_image(scale_cam_image(t[:, 0].relu().numpy(), size))) for t in a])
        print(f"  {ours} vs {theirs}: largest difference / largest value {float((a - b).abs().max() / b.abs().max()):.1e}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--window", type=int, default=12)
    parser.add_argument("--stride", type=int, default=6)
    parser.add_argument("--width", type=int, default=8, help="channels of the first stage")
    parser.add_argument("--targets", type=int, action="append", help="default: 1 and 10")
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=list(GROUPS))
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak")
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    if o.peak:
        group, row = json.loads(o.peak)
        rows, net, x = GROUPS[group](o)
        from attribution import peak_memory

        def plain(x: Tensor) -> Tensor:
            with torch.no_grad():
                return net(x)

        plain(x)
        (_, forward), (_, method) = peak_memory(plain, x), peak_memory(lambda x: rows[row](), x)
        print(f"{method:.0f} (a plain forward {forward:.0f})")
        return
    for group in [o.only] if o.only else GROUPS:
        rows, net, x = GROUPS[group](o)
        with torch.no_grad():
            net(x)
            start = time.perf_counter()
            for _ in range(3):
                net(x)
        plain = (time.perf_counter() - start) / 3
        seconds: dict[str, list[float]] = {name: [] for name in rows}
        results = {}
        for run in range(o.runs):
            for name in list(rows) if run % 2 else list(rows)[::-1]:
                start = time.perf_counter()
                results[name] = rows[name]()
                seconds[name].append(time.perf_counter() - start)
        print(f"{group}: one plain forward {plain * 1e3:.1f} ms, {o.threads} threads, {o.runs} runs")
        for name in rows:
            memory = "" if o.no_memory else peak(group, name)
            median = statistics.median(seconds[name])
            print(f"  {name:32s} {median:9.2f} s  = {median / plain:8.1f} forwards   peak +{memory} MiB")
        compare(group, rows, results)


if __name__ == "__main__":
    main()
