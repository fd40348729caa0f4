"""Maps against masks: a box in a box where every value is known, slow definitions, scikit-learn, and M3d-CAM's own code."""

import importlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radiolucent import io
from radiolucent.errors import BadInput, InputWarning
from radiolucent.metrics import METRICS, IoA, IoU, Mass, PointingGame, WeightedIoA, describe, from_text, label_of, measure
from radiolucent.metrics.thresholds import cut, otsu
from radiolucent.volume import Volume

AFFINE = np.diag([2.0, 1.5, 3, 1])


def box(shape: tuple[int, ...], *edges: tuple[int, int]) -> np.ndarray:
    found = np.zeros(shape, np.int32)
    found[tuple(slice(*edge) for edge in edges[: len(shape)])] = 1
    return found


def scores(relevance: np.ndarray, mask: np.ndarray, *metrics: str, **options: object) -> dict[str, float]:
    rows = measure(Volume(relevance[None], AFFINE), Volume(mask[None], AFFINE), metrics or tuple(METRICS), **options)
    return {row["metric"]: row["value"] for row in rows}


# Closed form.


@pytest.mark.parametrize("axes", [2, 3])
def test_a_box_in_a_box(axes: int) -> None:
    """Mass 3 in a core inside the mask and 1 in a rim that reaches out of it; all else 0."""
    shape, depth = ((10, 8), 1) if axes == 2 else ((10, 8, 6), 2)
    through = (0, 2)  # along the third axis, where there is one
    a = box(shape, (1, 5), (2, 4), through) + 2.0 * box(shape, (1, 3), (2, 4), through)
    mask = box(shape, (0, 4), (2, 4), through)
    # in cells of the section: core 4 (mass 3), rim 4 (mass 1), of which 2 in the mask of 8
    core, rim, rim_in, masked, n = 4 * depth, 4 * depth, 2 * depth, 8 * depth, int(np.prod(shape))
    precision_core, precision_both, everything = 1, (core + rim_in) / (core + rim), masked / n
    expected = {
        "ioa@0.5": 1.0,
        "ioa@0.2": (core + rim_in) / (core + rim),
        "wioa@0.2": (3 * core + rim_in) / (3 * core + rim),
        "iou@0.2": (core + rim_in) / (masked + rim - rim_in),
        "dice@0.5": 2 * core / (core + masked),
        "dice@r2": 2 * core / (core + masked),
        "iou@p99.9": core / masked,
        "pointing-game": 1.0,
        "energy-pointing-game": (3 * core + rim_in) / (3 * core + rim),
        "enrichment": (3 * core + rim_in) / (3 * core + rim) / (masked / n),
        "mass-concentration": 1.0,
        "rank-accuracy": (core + rim_in) / masked,
        "average-precision": core / masked * precision_core
        + rim_in / masked * precision_both
        + (masked - core - rim_in) / masked * everything,
        "max-f1": 2 * (core + rim_in) / (core + rim + masked),
        "auroc": (
            core * (n - masked)
            + rim_in * (n - masked - (rim - rim_in) / 2)
            + (masked - core - rim_in) * (n - masked - (rim - rim_in)) / 2
        )
        / (masked * (n - masked)),
    }
    found = scores(a.astype(np.float32), mask, *expected)
    assert set(METRICS) <= {name.partition("@")[0] for name in expected}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9), name


def test_the_thresholds_of_a_row_are_in_the_map_s_unit() -> None:
    a = np.linspace(10, 30, 100, dtype=np.float32).reshape(10, 10)
    mask = box((10, 10), (5, 10), (0, 10))
    rows = measure(Volume(a[None]), Volume(mask[None]), ["ioa@0.5", "ioa@p90", "ioa@r17", "max-f1", "energy-pointing-game"])
    assert [row["threshold"] for row in rows[:3]] == pytest.approx([20, np.percentile(a, 90), 17])
    assert rows[3]["threshold"] == pytest.approx(a[5, 0])
    assert rows[3]["value"] == 1
    assert np.isnan(rows[4]["threshold"])


def test_signed_maps() -> None:
    """Positive evidence inside the mask, twice as much negative outside it; two channels are added up."""
    R = np.zeros((2, 6, 6), np.float32)
    R[0, :2] = 1
    R[1, :2] = 1
    R[0, 4:] = -3
    R[1, 4:] = 1
    mask = box((6, 6), (0, 2), (0, 6))
    pair = Volume(R), Volume(mask[None])
    (positive,) = measure(*pair, ["energy-pointing-game"])
    (absolute,) = measure(*pair, ["energy-pointing-game"], part="absolute")
    assert positive["value"] == 1
    assert absolute["value"] == pytest.approx(2 / (2 + 4))
    with pytest.raises(BadInput, match="positive or absolute"):
        measure(*pair, part="negative")  # type: ignore[arg-type]


def test_the_pointing_game_s_tolerance_is_in_mm_and_its_ties_are_shared() -> None:
    a = np.zeros((9, 9, 9), np.float32)
    a[4, 4, 4] = 5
    mask = box((9, 9, 9), (4, 5), (4, 5), (6, 9))  # 2 voxels of 3 mm away
    assert scores(a, mask, "pointing-game", "pointing-game@5.9", "pointing-game@6") == {
        "pointing-game": 0,
        "pointing-game@5.9": 0,
        "pointing-game@6": 1,
    }
    a[4, 4, 8] = 5  # a second peak, inside
    assert scores(a, mask, "pointing-game", "pointing-game@6") == {"pointing-game": 0.5, "pointing-game@6": 1}
    flat = np.zeros((9, 9), np.float32)
    flat[4, 4] = 1
    assert scores(flat, box((9, 9), (4, 5), (6, 9)), "pointing-game@3")["pointing-game@3"] == 1  # 2 pixels of 1.5 mm


def test_mass_concentration_is_about_the_side() -> None:
    a = np.ones((7, 11, 5), np.float32)  # the longest axis is the second; its slice 5 belongs to no half
    a[:, :5] = 3
    assert scores(a, box(a.shape, (0, 2), (1, 4), (0, 2)), "mass-concentration")["mass-concentration"] == pytest.approx(0.75)
    assert scores(a, box(a.shape, (0, 2), (6, 8), (0, 2)), "mass-concentration")["mass-concentration"] == pytest.approx(0.25)
    for edges, reason in (((3, 8), "both halves"), ((5, 6), "middle slice")):
        mask = box(a.shape, (0, 2), edges, (0, 2))
        (row,) = measure(Volume(a[None]), Volume(mask[None]), ["mass-concentration"])
        assert np.isnan(row["value"])
        assert reason in row["reason"]


# Against slow definitions and libraries.


def random_case(seed: int, axes: int = 3, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(4, 9, axes))
    a = rng.normal(size=shape) + 2 * (rng.random(shape) < 0.1)
    if ties:
        a = np.round(a * 2) / 2
    mask = (rng.random(shape) < rng.uniform(0.05, 0.6)).astype(np.int32)
    mask.flat[:2] = 0, 1
    a.flat[2] = 3  # something positive in any case
    return a.astype(np.float32), mask


@settings(max_examples=60)
@given(st.integers(0, 100_000), st.integers(2, 3), st.booleans())
def test_rank_metrics_are_scikit_learn_s(seed: int, axes: int, ties: bool) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    R, mask = random_case(seed, axes, ties)
    a, m = np.maximum(R, 0).ravel(), mask.ravel()
    found = scores(R, mask)
    assert found["average-precision"] == pytest.approx(sklearn.average_precision_score(m, a), rel=1e-9)
    assert found["auroc"] == pytest.approx(sklearn.roc_auc_score(m, a), rel=1e-9)
    precision, recall, _ = sklearn.precision_recall_curve(m, a)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert found["max-f1"] == pytest.approx(f1.max(), rel=1e-9)


@settings(max_examples=60)
@given(st.integers(0, 100_000), st.sampled_from(["otsu", 0.3, "p80", "r0.7"]), st.sampled_from(["positive", "absolute"]))
def test_thresholded_metrics_by_their_definitions(seed: int, threshold: str | float, part: str) -> None:
    R, mask = random_case(seed)
    a = np.maximum(R, 0) if part == "positive" else np.abs(R)
    t = cut(Mass(a, Volume(R[None]).grid), threshold)
    A, M, w = (a >= np.float32(t)) & (a > 0), mask == 1, a - a.min()
    found = scores(R, mask, *(f"{name}@{threshold}" for name in ("ioa", "wioa", "iou", "dice")), part=part)
    expected = (
        (A & M).sum() / A.sum(),
        w[A & M].sum() / w[A].sum(),
        (A & M).sum() / (A | M).sum(),
        2 * (A & M).sum() / (A.sum() + M.sum()),
    )
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-5)


@settings(max_examples=40)
@given(st.integers(0, 100_000), st.booleans())
def test_rank_accuracy_is_what_a_random_order_among_equals_gives(seed: int, ties: bool) -> None:
    R, mask = random_case(seed, ties=ties)
    a, m = np.maximum(R, 0).ravel(), mask.ravel() == 1
    rng = np.random.default_rng(0)
    trials = []
    for _ in range(300):
        shuffled = rng.permutation(a.size)
        top = shuffled[np.argsort(-a[shuffled], kind="stable")][: m.sum()]
        trials.append(m[top].mean())
    assert scores(R, mask)["rank-accuracy"] == pytest.approx(np.mean(trials), abs=4 * np.std(trials) / np.sqrt(300) + 1e-9)


def slow_otsu(values: np.ndarray) -> float:
    """The definition: for each bin, part the histogram there, and weigh the two means."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    best, found = -1.0, 0.0
    for k in range(255):
        low, high = counts[: k + 1], counts[k + 1 :]
        m0 = (low * centres[: k + 1]).sum() / low.sum()
        m1 = (high * centres[k + 1 :]).sum() / high.sum()
        between = low.sum() * high.sum() * (m0 - m1) ** 2
        if between > best * (1 + 1e-9):
            best, found = between, centres[k]
    return found


@pytest.mark.parametrize("seed", range(8))
def test_otsu(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(1, 0.3, 700), rng.normal(3, 0.5, 60 * seed + 20)]).clip(0)
    rng.shuffle(values)
    found = otsu(Mass(values, Volume(values[None, None]).grid))
    assert found == pytest.approx(slow_otsu(values), rel=1e-12)
    skimage = pytest.importorskip("skimage.filters")
    assert found == pytest.approx(skimage.threshold_otsu(values), rel=1e-12)


def test_otsu_where_values_lie_on_the_edges_of_bins() -> None:
    values = np.random.default_rng(0).integers(0, 257, 400) ** 2 // 256 / 256
    values[:2] = 0, 1
    assert otsu(Mass(values, Volume(values[None, None]).grid)) == pytest.approx(slow_otsu(values), rel=1e-12)


def test_a_voxel_without_mass_is_never_pointed_at() -> None:
    a = np.zeros((10, 10), np.float32)
    a[0, :4] = [1, 2, 3, 4]
    mask = box((10, 10), (0, 1), (0, 2))
    assert scores(a, mask, "ioa@p10", "wioa@p10", "iou@p50") == pytest.approx({"ioa@p10": 0.5, "wioa@p10": 0.3, "iou@p50": 0.5})


@pytest.fixture
def medcam_score(monkeypatch: pytest.MonkeyPatch) -> Callable[..., float]:
    """M3d-CAM's own comp_score; today's numpy has lost the alias np.float that it needs."""
    monkeypatch.setattr(np, "float", float, raising=False)
    pytest.importorskip("medcam", reason="M3d-CAM is not installed", exc_type=ImportError)
    return importlib.import_module("medcam.evaluation.evaluation_utils").comp_score


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("threshold", ["otsu", 0.2, 0.5])
@pytest.mark.parametrize("axes", [2, 3])
def test_m3d_cam_s_values(axes: int, threshold: str | float, medcam_score: Callable[..., float]) -> None:
    """The same numbers on its own terms: same grid, 0/1 mask, absolute values where a map has negative ones."""
    for seed in range(6):
        R, mask = random_case(seed, axes)
        for relevance, part in ((R, "absolute"), (np.abs(R) + 0.5, "positive")):
            found = scores(relevance, mask, *(f"{name}@{threshold}" for name in ("ioa", "wioa", "iou")), part=part)
            theirs = [medcam_score(relevance, mask, name, threshold) for name in ("ioa", "wioa", "iou")]
            np.testing.assert_allclose(list(found.values()), theirs, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_where_m3d_cam_is_wrong(medcam_score: Callable[..., float]) -> None:
    """As docs/evaluation.md says: an empty mask scores 0, a constant map NaN, a half-way label passes as none."""
    R, mask = np.abs(random_case(0)[0]), random_case(0)[1]
    assert medcam_score(R, np.zeros_like(mask), "iou") == 0
    assert np.isnan(medcam_score(np.ones_like(R), mask, "ioa"))
    soft = np.where(mask == 1, 0.5, 0.0)
    soft.flat[0] = 1
    assert medcam_score(R, soft, "iou") == medcam_score(R, (soft == 1) * 1, "iou")
    assert medcam_score(R[:, :, :-1], mask, "iou") > 0  # another grid is stretched to fit


# One preparation for all labels.


def test_several_labels_at_once_are_each_alone() -> None:
    rng = np.random.default_rng(0)
    R = rng.normal(size=(7, 8, 9)).astype(np.float32)
    labels = rng.choice([0, 0, 3, 17, -2], R.shape).astype(np.int32)
    rows = measure(Volume(R[None]), Volume(labels[None]))
    assert {row["label"] for row in rows} == {-2, 3, 17}
    for label in (-2, 3, 17):
        alone = measure(Volume(R[None]), Volume((labels == label)[None]))
        for one, together in zip(alone, [row for row in rows if row["label"] == label], strict=True):
            assert (one["value"], one["metric"]) == (pytest.approx(together["value"], nan_ok=True), together["metric"])
    chosen = measure(Volume(R[None]), Volume(labels[None]), ["iou"], labels=[17], names={3: "a", 17: "b", -2: "c"})
    assert [(row["label"], row["region"]) for row in chosen] == [(17, "b")]


def test_the_map_is_sorted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    sort = np.sort
    monkeypatch.setattr(np, "sort", lambda a, **options: sizes.append(np.size(a)) or sort(a, **options))
    R, _ = random_case(0)
    labels = np.random.default_rng(1).integers(0, 4, R.shape).astype(np.int32)
    measure(Volume(R[None]), Volume(labels[None]), [*METRICS, "ioa@0.5", "dice@p95"])
    assert sizes.count(R.size) == 1
    assert sum(sizes) < 2 * R.size


def test_a_map_of_half_precision_or_whole_numbers_is_measured_in_a_wider_type() -> None:
    R, mask = random_case(4, ties=True)
    wide = scores(R, mask)
    for kind in (np.float16, np.float64):
        assert scores(R.astype(kind), mask) == pytest.approx(wide, nan_ok=True)
    assert scores((2 * R).astype(np.int16), mask, "auroc", "iou") == pytest.approx(scores(R, mask, "auroc", "iou"))


# Bad inputs.


def test_row_17_another_grid_is_refused_or_resampled_with_a_word() -> None:
    R = np.random.default_rng(0).random((1, 8, 8, 8), np.float32)
    fine = np.repeat(np.repeat(np.repeat(box((8, 8, 8), (2, 6), (2, 6), (2, 6)), 2, 0), 2, 1), 2, 2)[None]
    half = np.diag([1, 0.75, 1.5, 1.0])
    half[:3, 3] = -(AFFINE - half).diagonal()[:3] / 2
    with pytest.raises(BadInput, match=r"a mask on the map's grid \(8 x 8 x 8 .*got 16 x 16 x 16.*--resample"):
        measure(Volume(R, AFFINE), Volume(fine, half))
    shifted = AFFINE.copy()
    shifted[0, 3] = 4
    with pytest.raises(BadInput, match="elsewhere in the world"):
        measure(Volume(R, AFFINE), Volume(box((8, 8, 8), (2, 6), (2, 6), (2, 6))[None], shifted))
    with pytest.warns(InputWarning, match="the mask was resampled from 16 x 16 x 16") as caught:
        rows = measure(Volume(R, AFFINE), Volume(fine, half), ["iou"], resample=True)
    assert caught[0].filename == __file__
    assert rows[0]["value"] == scores(R[0], box((8, 8, 8), (2, 6), (2, 6), (2, 6)), "iou")["iou@otsu"]
    shifted[0, 3] = 400
    with pytest.raises(BadInput, match="a mask that overlaps the map"):
        measure(Volume(R, AFFINE), Volume(fine, shifted), resample=True)


def test_row_17_without_a_world_shapes_must_agree() -> None:
    R, mask = np.ones((1, 4, 5, 6), np.float32), box((4, 5, 6), (0, 2), (0, 2), (0, 2))[None]
    R[0, 0] = 2
    assert measure(Volume(R, AFFINE, has_world=False), Volume(mask, has_world=False), ["iou"])[0]["value"] > 0
    with pytest.raises(BadInput, match="the mask has no world"):
        measure(Volume(R, AFFINE), Volume(mask, has_world=False), resample=True)
    with pytest.raises(BadInput, match="neither has a world"):
        measure(Volume(R, has_world=False), Volume(mask[:, :3], has_world=False), resample=True)


def test_row_18_an_empty_mask_has_no_score() -> None:
    R = np.random.default_rng(0).random((1, 4, 5, 6), np.float32)
    empty = measure(Volume(R), Volume(np.zeros(R.shape, np.int32)))
    other = measure(Volume(R), Volume((R > 0.5) * 1), labels=[7])
    for rows, reason in ((empty, "the mask is empty"), (other, "label 7 is not in the mask")):
        assert len(rows) == len(METRICS)
        assert all(np.isnan(row["value"]) and row["reason"] == reason for row in rows)


def test_what_has_no_value_says_why() -> None:
    mask = box((6, 5), (0, 2), (0, 5))

    def reasons(R: np.ndarray, mask: np.ndarray = mask) -> dict[str, str]:
        rows = measure(Volume(R.astype(np.float32)[None]), Volume(mask[None]), [*METRICS, "ioa@r9"])
        assert all(np.isnan(row["value"]) == bool(row["reason"]) for row in rows)
        return {row["metric"]: row["reason"] for row in rows if row["reason"]}

    assert set(reasons(-np.ones((6, 5))).values()) == {"the map has no positive relevance"}
    constant = reasons(np.ones((6, 5)))
    assert {"ioa@otsu", "wioa@otsu", "iou@otsu", "dice@otsu"} <= set(constant)
    assert constant["iou@otsu"] == "the map is the same everywhere"
    assert "no voxel reaches the threshold" in constant["ioa@r9"]
    assert "whole image" in reasons(np.arange(30).reshape(6, 5), np.ones((6, 5), np.int32))["auroc"]


@pytest.mark.parametrize(
    ("mask", "options", "match"),
    [
        (np.full((1, 4, 4), 0.5, np.float32), {}, "whole numbers as labels in the mask; got values such as 0.5"),
        (np.full((1, 4, 4), np.nan, np.float32), {}, "whole numbers as labels"),
        (np.ones((2, 4, 4), np.int32), {}, "a mask of one channel; got 2"),
        (np.full((1, 4, 4), 9), {"names": {1: "a"}}, r"a name for every label in the mask; got none for \[9\]"),
        (np.ones((1, 4, 4)), {"labels": [0, 1]}, "labels other than 0"),
        (np.ones((1, 4, 4)), {"metrics": []}, "at least one metric"),
        (np.ones((1, 4, 4)), {"metrics": ["io"]}, "a metric among ioa, .*Did you mean iou or ioa"),
        (np.ones((1, 4, 4)), {"metrics": ["iou@best"]}, "a threshold: otsu, .*got 'best'"),
        (np.ones((1, 4, 4)), {"metrics": ["iou@1.5"]}, "a threshold: .*got 1.5"),
        (np.ones((1, 4, 4)), {"metrics": ["auroc@3"]}, "auroc without a setting"),
        (np.ones((1, 4, 4)), {"metrics": ["pointing-game@near"]}, "float for the field tolerance_mm of pointing-game; got 'near'"),
        (np.ones((1, 4, 4)), {"metrics": ["pointing-game@-1"]}, "a tolerance of 0 mm or more"),
    ],
)
def test_row_19_and_settings(mask: np.ndarray, options: dict[str, object], match: str) -> None:
    R = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    with pytest.raises(BadInput, match=match):
        measure(Volume(R), Volume(mask), **options)


@pytest.mark.parametrize("value", [0, np.nan, np.inf, -np.inf])
def test_row_34_a_map_that_says_nothing_is_refused(value: float) -> None:
    R = np.zeros((1, 4, 4), np.float32)
    R[0, 1, 1] = value
    with pytest.raises(BadInput, match=r"a finite map|not zero everywhere"):
        measure(Volume(R), Volume(np.ones((1, 4, 4), np.int32)))


# The list.


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_what_it_is(name: str) -> None:
    text = describe(METRICS[name])
    assert (text["name"], text["category"], text["direction"]) == (name, "localisation", "higher is better")
    assert text["equation"]
    assert text["summary"]
    assert "igher is better" in text["meaning"]
    assert from_text(label_of(METRICS[name]())) == METRICS[name]()


def test_metrics_as_text() -> None:
    for metric, text in (
        (IoA(), "ioa@otsu"),
        (IoU(0.5), "iou@0.5"),
        (WeightedIoA("p95"), "wioa@p95"),
        (PointingGame(), "pointing-game"),
        (PointingGame(2.5), "pointing-game@2.5"),
    ):
        assert label_of(metric) == text
        assert label_of(from_text(text)) == text


# Real anatomy.


def test_real_labels(data_folder) -> None:
    """The scan's hippocampus as a map of itself: label 2 where the map is 2, half as much where label 1 is."""
    path = next(iter(sorted((data_folder / "hippocampus" / "labels").glob("*.nii.gz"))))
    labels = io.read_labels(path)
    relevance = labels.like(labels.data.astype(np.float32))
    found = {(row["label"], row["metric"]): row["value"] for row in measure(relevance, labels)}
    one, two = ((labels.data == v).sum() for v in (1, 2))
    assert found[2, "average-precision"] == found[2, "pointing-game"] == found[2, "rank-accuracy"] == found[2, "max-f1"] == 1
    assert found[1, "pointing-game"] == 0
    assert found[1, "energy-pointing-game"] == pytest.approx(one / (one + 2 * two))
    assert found[1, "max-f1"] == pytest.approx(2 * one / (2 * one + two))
    assert found[1, "rank-accuracy"] == pytest.approx(max(0, one - two) / one)
