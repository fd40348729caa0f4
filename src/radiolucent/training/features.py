"""Features of a frozen encoder: computed once for each image and variant, kept in files, shared by all seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save
from torch import Tensor, nn

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.training import networks
from radiolucent.training.images import Draw, Images
from radiolucent.training.recipe import Network

_PART = 128  # images per file: what a kill costs at most


class Features:
    """What features(x) gives for each of `draws`, with which from_features gives what the network gives.

    Raises:
        BadInput: from_features(features(x)) is not what the network says.
    """

    def __init__(
        self,
        network: nn.Module,
        asked: Network,
        images: Images,
        draws: Sequence[Draw],
        folder: Path,
        accelerator: Accelerator,
        part: int,
        say: Callable[[str], None],
    ) -> None:
        self.network, self.asked, self.images, self.accelerator, self.part = network, asked, images, accelerator, part
        self.rows = {draw: row for row, draw in enumerate(dict.fromkeys(draws))}
        self.template = self._checked()
        self.tensors = self._all(folder, list(self.rows), say)

    def batch(self, draws: Sequence[Draw]) -> Any:
        """The features of these, on the device."""
        rows = torch.tensor([self.rows[draw] for draw in draws])
        device = self.accelerator.device
        return networks.like(self.template, (tensor[rows].to(device, non_blocking=True) for tensor in self.tensors))

    def _checked(self) -> Any:
        image = self.images[next(iter(self.rows))][0][None].to(self.accelerator.device)
        with torch.no_grad(), networks.in_eval(self.network):
            features = self.network.features(image)  # type: ignore[operator]
            told, wanted = self.network.from_features(features), self.network(image)  # type: ignore[operator]
        leaves = networks.leaves(features)
        if any(len(leaf) != 1 for leaf in leaves) or not torch.allclose(told, wanted, rtol=1e-3, atol=1e-4):
            got = f"{told.flatten()[:3].tolist()}, not {wanted.flatten()[:3].tolist()}"
            do = "Mend its features and from_features, or set frozen_epochs = 0."
            raise BadInput(f"from_features(features(x)) = {type(self.network).__name__}(x), a row for each image", got, do)
        return features

    def _all(self, folder: Path, draws: list[Draw], say: Callable[[str], None]) -> list[Tensor]:
        place = folder / self._key(draws)
        place.mkdir(parents=True, exist_ok=True)
        parts = [draws[start : start + _PART] for start in range(0, len(draws), _PART)]
        files = [place / f"part-{number:05d}.safetensors" for number in range(len(parts))]
        missing = [n for n, file in enumerate(files) if not file.exists()]
        if missing:
            say(f"features of {sum(len(parts[n]) for n in missing)} images, once for all epochs and seeds")
        for n in missing[self.accelerator.process_index :: self.accelerator.num_processes]:
            io.put(files[n], save({f"{i}": tensor for i, tensor in enumerate(self._made(parts[n]))}))
        self.accelerator.wait_for_everyone()
        loaded = [load_file(file) for file in files]
        return [torch.cat([part[f"{i}"] for part in loaded]) for i in range(len(loaded[0]))]

    def _made(self, draws: list[Draw]) -> list[Tensor]:
        made = []
        with torch.no_grad(), networks.in_eval(self.network), self.accelerator.autocast():
            for start in range(0, len(draws), self.part):
                batch = torch.stack([self.images[draw][0] for draw in draws[start : start + self.part]])
                features = self.network.features(batch.to(self.accelerator.device))  # type: ignore[operator]
                made.append([leaf.float().cpu() for leaf in networks.leaves(features)])
        return [torch.cat(parts).contiguous() for parts in zip(*made, strict=True)]

    def _key(self, draws: list[Draw]) -> str:
        """Of what the features depend on: the network, its weights that are not trained, images, variants, precision."""
        behind = getattr(self.network, "behind_features", ())
        arguments = sorted((k, v) for k, v in self.asked.arguments.items() if k not in behind)
        made = [self.asked.network, arguments]  # not all of it shows in the weights: kind, size
        digest = hashlib.sha256(repr(made).encode())
        trained = {name for name, parameter in self.network.named_parameters() if parameter.requires_grad}
        for name, tensor in self.network.state_dict().items():
            if name not in trained:
                digest.update(f"{name}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        cases = self.images.cases
        told: list[Any] = [draws, cases.ids, dict(cases.origin), repr(self.images.augmentation), self.images.shape]
        told += [cases.how, str(self.accelerator.mixed_precision)]
        digest.update(json.dumps(told, sort_keys=True).encode())
        return digest.hexdigest()[:16]
