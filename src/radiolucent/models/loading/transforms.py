"""The list of transforms in a MONAI bundle, as Preprocessing, where every one of them is understood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from radiolucent.errors import BadInput
from radiolucent.models.preprocessing import Percentile, Preprocessing, Window, ZScore


class Values(Protocol):
    """What gives a bundle's plain values."""

    def value(self, name: str, default: Any = None) -> Any: ...


_NOTHING = {"LoadImage", "EnsureChannelFirst", "EnsureType", "ToTensor", "CastToType", "ToDevice"}
_ORDER = ("orientation", "spacing", "intensity", "size", "multiple")  # spacing and intensity may change places


def preprocessing_of(config: Values, channels: int) -> Preprocessing:
    """What `preprocessing` (a Compose) does to the image, as one change of grid and one scaling.

    Raises:
        BadInput: lists each transform that is not understood, with its arguments.
    """
    given = config.value("preprocessing", {"transforms": config.value("preprocessing_transforms", [])})
    steps = given.get("transforms", []) if isinstance(given, Mapping) else given
    fields: dict[str, Any] = {}
    unclear: list[str] = []
    for step in steps if isinstance(steps, list) else [steps]:
        target = step.get("_target_", "") if isinstance(step, Mapping) else ""
        name = _plain_name(str(target))
        if name in _NOTHING or (isinstance(step, Mapping) and step.get("_disabled_") is True):
            continue
        arguments = {k: v for k, v in step.items() if k[:1] != "_" and k != "keys"} if isinstance(step, Mapping) else {}
        found = _READ[name](arguments, channels) if name in _READ else None
        if found is None or set(found) & set(fields) or not _in_order(fields, found):
            unclear.append(f"{target or repr(step)} {arguments or ''}".strip())
        else:
            fields |= found
    if unclear:
        do = "Write a card with the closest preprocessing (docs: models), or preprocess yourself."
        raise BadInput(f"transforms among {', '.join(sorted(_READ))}, each once and in the usual order", "; ".join(unclear), do)
    return Preprocessing(**fields)


def _plain_name(target: str) -> str:
    """ScaleIntensityRange for monai.transforms.ScaleIntensityRanged, ...D and ...Dict."""
    name = target.rpartition(".")[2] if target.startswith("monai.transforms.") else target
    for ending in ("Dict", "D", "d"):
        if name.endswith(ending) and name not in ("Pad",):
            return name.removesuffix(ending)
    return name


def _in_order(fields: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Preprocessing pads with 0 after scaling, so scaling cannot come after a change of size."""
    last = max((_ORDER.index(k) for k in fields if k in _ORDER), default=-1)
    first = min(_ORDER.index(k) for k in found if k in _ORDER)
    return first >= last or (set(found) == {"spacing"} and _ORDER[last] == "intensity")


def _orientation(a: Mapping[str, Any], channels: int) -> dict[str, Any] | None:
    return {"orientation": a["axcodes"]} if isinstance(a.get("axcodes"), str) else None


def _spacing(a: Mapping[str, Any], channels: int) -> dict[str, Any] | None:
    sizes = a.get("pixdim")
    return {"spacing": tuple(sizes)} if isinstance(sizes, list) and all(s > 0 for s in sizes) else None


def _range(a: Mapping[str, Any], channels: int) -> dict[str, Any] | None:
    plain = (a.get("b_min"), a.get("b_max"), a.get("clip")) == (0, 1, True)
    return {"intensity": Window(a["a_min"], a["a_max"])} if plain and "a_min" in a and "a_max" in a else None


def _percentiles(a: Mapping[str, Any], channels: int) -> dict[str, Any] | None:
    plain = (a.get("b_min"), a.get("b_max"), a.get("clip", False), a.get("relative", False)) == (0, 1, True, False)
    alone = channels == 1 or a.get("channel_wise") is True
    return {"intensity": Percentile(a["lower"], a["upper"])} if plain and alone and "lower" in a and "upper" in a else None


def _minimum_maximum(a: Mapping[str, Any], channels: int) -> dict[str, Any] | None:
    plain = (a.get("minv", 0), a.get("maxv", 1), a.get("factor")) == (0, 1, None)
    return {"intensity": Percentile(0, 100)} if plain and (channels == 1 or a.get("channel_wise") is True) else None


def _normalise(a: Mapping[str, Any], channels: int) -> dict[str, Any] | None:
    if a.get("subtrahend") is not None or a.get("divisor") is not None or not (channels == 1 or a.get("channel_wise") is True):
        return None
    return {"intensity": ZScore(keep_zero=True) if a.get("nonzero") is True else ZScore()}


def _stretch(a: Mapping[str, Any], channels: int) -> dict[str, Any] | None:
    size = a.get("spatial_size")
    linear = str(a.get("mode", "area")) in ("linear", "bilinear", "trilinear")  # MONAI's default averages, ours does not
    plain = isinstance(size, list) and a.get("size_mode", "all") == "all" and linear
    return {"size": tuple(size), "fit": "stretch"} if plain and size else None


def _centre(a: Mapping[str, Any], channels: int) -> dict[str, Any] | None:
    size = a.get("spatial_size")
    return {"size": tuple(size), "fit": "centre"} if isinstance(size, list) and size else None


def _divisible(a: Mapping[str, Any], channels: int) -> dict[str, Any] | None:
    k = a.get("k")
    return {"multiple": k} if isinstance(k, int) else None


_READ: dict[str, Any] = {
    "Orientation": _orientation,
    "Spacing": _spacing,
    "ScaleIntensityRange": _range,
    "ScaleIntensityRangePercentiles": _percentiles,
    "ScaleIntensity": _minimum_maximum,
    "NormalizeIntensity": _normalise,
    "Resize": _stretch,
    "ResizeWithPadOrCrop": _centre,
    "DivisiblePad": _divisible,
}


def windows_of(config: Any) -> dict[str, Any]:
    """A card's `window`, `overlap` and `blend`, where the bundle moves a window over the scan and says its axes."""
    inferer = config.value("inferer", {})
    sides = _window(inferer)
    if len(sides) not in (2, 3):
        return {}
    overlap = inferer.get("overlap", 0.25)
    blend = str(inferer.get("mode", "constant")).lower()
    return {"window": tuple(sides), "overlap": tuple(overlap) if isinstance(overlap, list) else overlap, "blend": blend}


def _window(inferer: Any) -> list[int]:
    sides = inferer.get("roi_size") if isinstance(inferer, Mapping) else None
    return sides if isinstance(sides, list) and all(type(n) is int and n > 0 for n in sides) else []
