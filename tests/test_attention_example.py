"""The shipped attention model: small, usable by its card, as good as the card says, and its weights are its explanation."""

from pathlib import Path

import numpy as np
import pytest
import torch

import radiolucent as rl
from radiolucent.methods import SliceAttention
from radiolucent.training.scoring import point

REPOSITORY = Path(__file__).resolve().parents[1]
SHIPPED = REPOSITORY / "examples" / "attention" / "weights" / "vessel"
FIRST = 1335 + 191
"""The first test volume's place among all, as in cases.py."""

pytest.importorskip("efficientnet_lite_pytorch")


@pytest.fixture(scope="module")
def vessels(data_folder: Path) -> dict[str, np.ndarray]:
    file = data_folder / "medmnist3d" / "vesselmnist3d.npz"
    if not file.exists():
        pytest.skip(f"no {file}: set RADIOLUCENT_DATA")
    with np.load(file) as arrays:
        return {name: arrays[name] for name in ("test_images", "test_labels")}


def test_it_is_small_and_tells_aneurysms_from_vessels(vessels: dict[str, np.ndarray]) -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 20 * 2**20
    model, card = rl.load(str(SHIPPED))
    labels = vessels["test_labels"][:, 0]
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:10] for label in (0, 1)]))
    outputs = []
    for image in vessels["test_images"][chosen]:
        prepared = torch.from_numpy(image[None, None].astype(np.float32) / 255)
        with torch.no_grad():
            outputs.append(model(prepared)[0].softmax(0).numpy())
    told = card.about["test"]["auroc"]
    assert point(labels[chosen], np.stack(outputs), "classification", "auroc") > told - 0.12  # of 20 cases: two standard errors


def test_the_heaviest_slices_of_the_readmes_case_cross_the_aneurysm(vessels: dict[str, np.ndarray]) -> None:
    model, card = rl.load(str(SHIPPED))
    scan = rl.Volume(vessels["test_images"][1555 - FIRST][None].astype(np.float32))
    prediction = rl.predict(model, scan, card.preprocessing)
    assert card.classes[int(prediction.output.argmax())] == "aneurysm"
    (explanation,) = prediction.explain([SliceAttention()], rl.Logits(1), classes=card.classes)
    axes = explanation.provenance["details"][0]["slices"]
    weights = np.concatenate([axes[axis]["weight"] for axis in "ijk"])
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    truth = explanation.provenance["details"][0]["truth"]
    assert truth["deletion"] < truth["deletion_at_random"]
