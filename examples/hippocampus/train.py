"""Train the demo's hippocampus model and write its folder: weights and card.

    python examples/hippocampus/train.py --data ../shared/data/hippocampus --out src/radiolucent/demo/hippocampus

Data: Medical Segmentation Decathlon Task04 (CC BY-SA 4.0), the folders images/ and labels/ with the same
file names. About 20 minutes on two CPU cores. The split is fixed; the weights repeat on the same machine with
the same number of threads.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
)
from safetensors.torch import save_model
from torch.utils.data import DataLoader, Dataset

from radiolucent import Preprocessing, read
from radiolucent.io import put, read_labels
from radiolucent.models import Percentile

PREPROCESSING = Preprocessing("RAS", (1.0, 1.0, 1.0), (48, 64, 48), intensity=Percentile(1, 99))
ARGUMENTS = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "kernel_size": [3, 3, 3, 3],
    "strides": [1, 2, 2, 2],
    "upsample_kernel_size": [2, 2, 2],
    "filters": [8, 16, 32, 64],
    "act_name": ["relu", {"inplace": True}],
    "norm_name": ["instance", {"affine": True}],
}
CLASSES = ("background", "anterior hippocampus", "posterior hippocampus")
BOTH = ("image", "label")


def split(folder: Path, held_out: int = 40, seed: int = 2026) -> tuple[list[str], list[str]]:
    """File names for training and test: fixed by the seed and the sorted names."""
    names = sorted(p.name for p in (folder / "images").glob("*.nii.gz"))
    order = np.random.RandomState(seed).permutation(len(names))
    return sorted(names[i] for i in order[held_out:]), sorted(names[i] for i in order[:held_out])


def load(folder: Path, name: str) -> dict[str, torch.Tensor]:
    image = read(folder / "images" / name)
    label = read_labels(folder / "labels" / name).on(PREPROCESSING.grid(image.grid), nearest=True)
    return {"image": torch.from_numpy(PREPROCESSING(image).data), "label": torch.from_numpy(label.data)}


def augmentation(seed: int) -> Compose:
    """What scanners and people vary in, so that the model holds on scans from elsewhere."""
    transform = Compose(
        [
            RandFlipd(BOTH, prob=0.5, spatial_axis=0),
            RandAffined(
                BOTH,
                prob=0.8,
                rotate_range=(0.2,) * 3,
                scale_range=(0.12,) * 3,
                translate_range=(4,) * 3,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandAdjustContrastd("image", prob=0.5, gamma=(0.6, 1.6)),
            RandBiasFieldd("image", prob=0.3, coeff_range=(0, 0.15)),
            RandGaussianSmoothd("image", prob=0.2, sigma_x=(0.3, 1), sigma_y=(0.3, 1), sigma_z=(0.3, 1)),
            RandGaussianNoised("image", prob=0.3, std=0.05),
        ]
    )
    transform.set_random_state(seed)
    return transform


class Cases(Dataset):
    def __init__(self, cases: list[dict[str, torch.Tensor]], transform: Compose) -> None:
        self.cases, self.transform = cases, transform

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        case = self.transform(self.cases[number])
        return torch.as_tensor(case["image"]), torch.as_tensor(case["label"])


def dice(network: torch.nn.Module, cases: list[dict[str, torch.Tensor]]) -> np.ndarray:
    """(cases, 2): 2 |P and T| / (|P| + |T|) of the anterior and the posterior part, on the model's grid."""
    network.eval()
    rows = []
    with torch.inference_mode():
        for case in cases:
            predicted, truth = network(case["image"][None]).argmax(1)[0], case["label"][0]
            rows.append(
                [2 * ((predicted == k) & (truth == k)).sum() / ((predicted == k).sum() + (truth == k).sum()) for k in (1, 2)]
            )
    network.train()
    return np.array(rows)


def train(folder: Path, epochs: int, seed: int = 0) -> tuple[torch.nn.Module, np.ndarray, dict[str, list[str]]]:
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # MONAI draws from it
    random.seed(seed)
    names = dict(zip(("train", "test"), split(folder), strict=True))
    cases = {part: [load(folder, name) for name in names[part]] for part in names}
    network = DynUNet(**ARGUMENTS)
    loader = DataLoader(Cases(cases["train"], augmentation(seed)), batch_size=4, shuffle=True)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * len(loader))
    start = time.monotonic()
    for epoch in range(epochs):
        total = 0.0
        for image, label in loader:
            optimiser.zero_grad()
            loss = loss_of(network(image), label)
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / len(loader):.3f}, {time.monotonic() - start:.0f} s", flush=True)
    return network, dice(network, cases["test"]), names


def card(scores: np.ndarray, names: dict[str, list[str]], epochs: int) -> dict[str, object]:
    mean, low = scores.mean(0), scores.min(0)
    return {
        "name": "Hippocampus segmentation (demo)",
        "task": "segmentation",
        "network": "monai:DynUNet",
        "arguments": ARGUMENTS,
        "weights": "weights.safetensors",
        "channels": 1,
        "classes": CLASSES,
        "layer": "upsamples.0",
        "preprocessing": PREPROCESSING.as_dict(),
        "about": {
            "data": "Medical Segmentation Decathlon Task04 Hippocampus: T1 MRI crops, 1 mm, Vanderbilt University Medical Center",
            "licence": "CC BY-SA 4.0, for the weights too, as they derive from the data",
            "split": f"{len(names['train'])} cases for training, {len(names['test'])} held out (train.py, seed 2026)",
            "held_out": [name.removesuffix(".nii.gz") for name in names["test"]],
            "training": f"{epochs} epochs, AdamW with one cycle to 4e-3, Dice + cross-entropy, last epoch kept",
            "dice_mean": {name: round(float(m), 4) for name, m in zip(CLASSES[1:], mean, strict=True)},
            "dice_lowest": {name: round(float(m), 4) for name, m in zip(CLASSES[1:], low, strict=True)},
            "limits": "A demonstration, not for clinical use. Trained on one hippocampus per crop; not tested on "
            "disease, other contrasts, or whole heads.",
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    network, scores, names = train(arguments.data, arguments.epochs)
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_model(network, str(arguments.out / "weights.safetensors"))
    put(arguments.out / "card.json", json.dumps(card(scores, names, arguments.epochs), indent=2).encode() + b"\n")
    print(f"held-out Dice: {scores.mean(0).round(4).tolist()}, lowest {scores.min(0).round(4).tolist()}")


if __name__ == "__main__":
    main()
