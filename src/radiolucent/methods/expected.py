"""Expected Gradients: Integrated Gradients averaged over a set of references, so that none of them is special."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from radiolucent import baselines
from radiolucent.errors import BadInput
from radiolucent.methods.gradient import Gradient, check_floating, plain
from radiolucent.methods.perturbation import in_passes, mean
from radiolucent.protocols import Target
from radiolucent.settings import ANY_SEED, at_least


@dataclass(frozen=True)
class ExpectedGradients:
    """Mean path gradient from the images of a reference set D (Erion et al., Nature Machine Intelligence 2021, eq. 3).

        R = E_{x' ~ D, a ~ U(0, 1)} [ (x - x') * dS/dx (x' + a (x - x')) ],     E[sum R] = S(x) - mean_D S(x')

    by `samples` draws from `seed`, the same for each target and batch item, `batch` of them in a pass (0: as many as
    fit well). `references` names D: a .npy file (n, channels, *grid) of images as the model takes them, such as
    preprocessed training images, of which only the drawn ones are read; or one baseline (zero, minimum, mean, blur,
    noise), a set of one. Signed, on the input's grid.
    No value of a voxel means "absent", unlike in Integrated Gradients. The draws leave noise: the sum over all
    voxels is complete only on average. References from another scanner or another crop explain that difference.
    """

    references: str = "zero"
    samples: int = 50
    seed: int = 0
    batch: int = 0

    unit = "score"

    def __post_init__(self) -> None:
        at_least(self, samples=1, seed=ANY_SEED, batch=0)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        x = plain(x)
        check_floating(x)
        size, reference = _references(self.references, x)
        generator = torch.Generator().manual_seed(self.seed)
        references: deque[Tensor] = deque()

        def points() -> Iterator[Tensor]:
            for _ in range(self.samples):
                references.append(reference(int(torch.randint(size, (), generator=generator))))
                yield torch.lerp(references[-1], x, float(torch.rand((), generator=generator)))

        gradients = in_passes(Gradient(), model, points(), targets, self.batch, self.samples)
        return mean(g * (x - references.popleft()) for g in gradients)


def _references(name: str, x: Tensor) -> tuple[int, Callable[[int], Tensor]]:
    """The number of references, and the i-th of them as a tensor of the shape of x."""
    if name in baselines.BASELINES:
        return 1, lambda i: baselines.baseline(name, x)
    wanted = f"a .npy file (n, {', '.join(map(str, x.shape[1:]))}), or a baseline among {', '.join(baselines.BASELINES)}"
    save = "Stack preprocessed images and save them with numpy.save."
    if not Path(name).is_file():
        raise BadInput(f"as references {wanted}", repr(name), save)
    try:
        images = np.load(name, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BadInput(f"as references {wanted}", f"{name}: {error}", save) from None
    if not isinstance(images, np.ndarray) or images.dtype.kind not in "biuf" or images.shape[1:] != x.shape[1:] or not len(images):
        came = f"{images.dtype} of shape {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise BadInput(f"as references {wanted}", f"{name}: {came}", save)

    def reference(i: int) -> Tensor:
        image = torch.from_numpy(np.array(images[i])).to(x)
        if not image.isfinite().all():
            raise BadInput(
                "finite voxels in the references", f"NaN or infinity in image {i} of {name}", "Mend or leave out that image."
            )
        return image.expand_as(x)

    return len(images), reference
