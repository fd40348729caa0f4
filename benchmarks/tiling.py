"""What Tiled needs: peak memory for 8 and for 64 windows of one image, and a 256^3 volume within 4 GiB.

    python benchmarks/tiling.py                                     # 96^3 windows on 192^3, twice, then 256^3
    python benchmarks/tiling.py --window 24 --sizes 48 96        # does it work?

Each row is a process of its own: a MONAI U-Net with three classes, the gradient of two of them (in the worst case all
voxels are theirs, so that no window is skipped). Peak resident memory of the process, above what it held before (the
network, the image, the libraries) and in all; seconds; how often a window ran. "whole" sees the same image at once.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings

import torch

warnings.filterwarnings("ignore")


def peak() -> float:
    """Of this process up to now, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def row(o: argparse.Namespace) -> dict[str, float]:
    from monai.networks.nets import UNet

    from radiolucent import Region
    from radiolucent.methods import Gradient
    from radiolucent.tiling import Tiled

    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    channels = [o.width * n for n in (1, 2, 4, 8)]
    net = UNet(3, 1, 3, channels=channels, strides=(2, 2, 2), num_res_units=2, norm="instance").eval()
    x = torch.rand(1, 1, *[o.size] * 3)
    windows = 0

    def count(*_: object) -> None:
        nonlocal windows
        windows += 1

    net.register_forward_pre_hook(count)
    model = net if o.whole else Tiled(net, o.window, o.overlap, o.blend)
    before, start = peak(), time.perf_counter()
    mask = torch.arange(o.size).reshape(-1, 1, 1).remainder(2).expand(1, *x.shape[2:]) + 1  # labels 1 and 2 in every window
    if o.predict:
        with torch.no_grad():
            model(x)
    Gradient()(model, x, Region(1, 2, mask=mask.to(torch.uint8)))
    return {"above": peak() - before, "in all": peak(), "seconds": time.perf_counter() - start, "windows": windows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--sizes", type=int, nargs=2, default=[192, 256], help="of two windows, and large")
    parser.add_argument("--blend", default="gaussian")
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--whole", action="store_true", help="also the network on the whole of the first image")
    one = parser.add_argument_group("one row, as this script starts itself")
    one.add_argument("--size", type=int)
    one.add_argument("--overlap", type=float)
    one.add_argument("--predict", action="store_true")
    o = parser.parse_args()
    if o.size:
        print(json.dumps(row(o)))
        return
    small, large = o.sizes
    step = -(-o.window // 3) + 0.5  # four windows along each axis of twice their size
    rows = {
        f"8 windows, {small}^3": ["--size", small, "--overlap", 0.0],
        f"64 windows, {small}^3": ["--size", small, "--overlap", 1 - step / o.window],
        f"{large}^3, overlap 0.25, with its prediction": ["--size", large, "--overlap", 0.25, "--predict"],
    }
    if o.whole:
        rows[f"whole, {small}^3"] = ["--size", small, "--overlap", 0.0, "--whole"]
    same = ["--window", o.window, "--blend", o.blend, "--width", o.width, "--threads", o.threads]
    found = {}
    for name, arguments in rows.items():
        command = [sys.executable, __file__, *map(str, [*same, *arguments])]
        found[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{name:45s}", "  ".join(f"{key} {value:8.1f}" for key, value in found[name].items()), flush=True)
    first, second, third = list(found.values())[:3]
    print(f"64 windows / 8 windows: {second['above'] / first['above']:.3f} of the memory above rest (wanted: 0.9 to 1.1)")
    print(f"{large}^3: {third['in all'] / 1024:.2f} GiB in all (wanted at 256^3 and 96^3: below 4)")


if __name__ == "__main__":
    main()
