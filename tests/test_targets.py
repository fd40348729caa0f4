"""Targets: which number is explained, and what is said when there is none."""

import math
from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from radiolucent import BadInput, Contrast, Logits, Outputs, Region
from radiolucent.protocols import Target
from radiolucent.targets import Overlapping, Select, label_map, only

OUTPUT = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])


def test_logits_contrasts_and_outputs_pick_columns() -> None:
    assert Logits(2, 0)(OUTPUT).tolist() == [[4, 32], [1, 8]]
    assert Contrast(2, 1)(OUTPUT).tolist() == [[2, 16]]
    assert Outputs(1)(OUTPUT).tolist() == [[2, 16]]
    assert Outputs()(OUTPUT).tolist() == OUTPUT.T.tolist()
    assert Outputs()(OUTPUT[:, 0]).tolist() == [[1, 8]]


def test_only_some_of_the_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(1, 4, 3, 5, generator=generator)
    kinds = [(Logits(2, 0, 1), OUTPUT), (Outputs(), OUTPUT), (Select("a", Logits(2, 0, 1)), {"a": OUTPUT})]
    for reduce in ("sum", "mean", "probability"):
        kinds += [(Region(3, 1, 2, reduce=reduce), output), (Overlapping(3, 1, 2, reduce=reduce), output)]
    given = torch.rand(3, 3, 5, generator=generator)
    kinds += [(Region(3, 1, 2, reduce="probability", mask=given), output)]
    for target, said in kinds:
        whole = target.fix(said)
        some = only(whole, [2, 0])
        assert type(some) is type(target)
        assert torch.equal(some(said), whole(said)[[2, 0]])
        assert torch.equal(some.fix(said)(said), some(said))  # as a method's maps are made again
        assert some.names("abcd") == tuple(whole.names("abcd")[t] for t in (2, 0))
        assert torch.equal(only(whole, [0, 1, 2])(said), whole(said))
    assert only(Contrast(1, 0), [0]) == Contrast(1, 0)


@pytest.mark.parametrize("reduce", ["sum", "mean", "probability"])
def test_the_gradient_of_regions_is_their_weights(reduce: str) -> None:
    output = torch.randn(2, 4, 3, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask = None if reduce == "probability" else torch.arange(30).reshape(2, 3, 5) % 4
    target = Region(3, 1, 3, mask=mask, reduce=reduce).fix(output)
    assert torch.autograd.gradcheck(target, (output,))
    (gradient,) = torch.autograd.grad(target(output)[1].sum(), output)
    weights = output.softmax(1)[:, 1] if mask is None else (mask == 1).double()
    weights = weights / weights.flatten(1).sum(1)[:, None, None] if reduce == "mean" else weights
    assert torch.allclose(gradient[:, 1], weights)
    assert not gradient[:, [0, 2, 3]].any()


@pytest.mark.parametrize("reduce", ["sum", "mean", "probability"])
def test_overlapping_regions_have_a_sigmoid_each(reduce: str) -> None:
    f = torch.randn(2, 4, 3, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = Overlapping(3, 1, reduce=reduce).fix(f)
    assert torch.autograd.gradcheck(target, (f,))
    scores = target(f)
    for row, channel in zip(scores, (3, 1), strict=True):
        for item in range(2):
            total = weight = 0.0
            for value in f[item, channel].flatten().tolist():
                p = 1 / (1 + math.exp(-value))
                w = p if reduce == "probability" else float(p > 0.5)
                total, weight = total + w * value, weight + w
            assert row[item].item() == pytest.approx(total / weight if reduce == "mean" else total)
    assert torch.equal(target(f + 5), Overlapping(3, 1, reduce=reduce).fix(f)(f + 5))  # what is fixed does not move
    assert target.names(["a", "b", "c", "d"]) == ("d", "b")
    assert repr(target) == repr(Overlapping(3, 1, reduce=reduce))


def test_labels_of_overlapping_regions_are_written_one_after_the_other() -> None:
    f = torch.tensor([[1.0, 1, -1, -1], [1, -1, -1, 1], [1, 1, 1, -1]])[None, :, None]
    assert label_map(f, (2, 7, 1)).tolist() == [[[1, 1, 1, 7]]]
    assert label_map(f, (1, 2, 3)).tolist() == [[[3, 3, 3, 2]]]
    with pytest.raises(BadInput, match="2 channels, one for each region; got 3"):
        label_map(f, (1, 2))
    with pytest.raises(BadInput, match="at least one voxel in each target region; got none for region 0"):
        Overlapping(0, 2).fix(-f.abs())
    with pytest.raises(BadInput, match=r"fixed before the explanation starts; got Overlapping\(0, 2\)"):
        Overlapping(0, 2)(f)
    with pytest.raises(BadInput, match="target indices from 0 to 2"):
        Overlapping(3).fix(f)
    with pytest.raises(BadInput, match="at least one channel"):
        Overlapping()
    with pytest.raises(BadInput, match=r"or .probability.; got .max."):
        Overlapping(1, reduce="max")


def test_fixing_names_what_was_left_open() -> None:
    assert Outputs().fix(OUTPUT) == Outputs(0, 1, 2)
    assert Outputs(1).fix(OUTPUT) == Outputs(1)
    assert Logits(1).fix(OUTPUT) == Logits(1)
    assert Contrast(1, 0).fix(OUTPUT) == Contrast(1, 0)


def test_names_are_the_classes_where_they_are_known() -> None:
    classes = ("air", "bone")
    assert Logits(1, 2).names(classes) == ("bone", "logit 2")
    assert Contrast(1, 0).names(classes) == ("bone rather than air",)
    assert Contrast(1, 2).names() == ("logit 1 rather than logit 2",)
    assert Outputs(0, 5).names(classes) == ("air", "output 5")
    assert Region(1, 3).names(classes) == ("bone", "label 3")
    assert Select("a", Logits(0)).names(classes) == ("air",)


@pytest.mark.parametrize(
    "target", [Logits(1, 2), Contrast(1, 0), Outputs(), Outputs(3), Region(1, reduce="mean"), Select("a", Logits(1))]
)
def test_targets_are_values(target: Target) -> None:
    again = eval(repr(target))
    assert again == target
    assert hash(again) == hash(target)
    assert isinstance(target, Target)
    assert target != Logits(0)


def test_any_whole_number_is_an_index() -> None:
    assert Logits(torch.tensor(2)) == Logits(2)
    assert Region(torch.tensor([1])[0]) == Region(1)


REFUSED = {
    "no class": (lambda: Logits(), "at least one class; got none. For example Logits"),
    "no label": (lambda: Region(), "at least one label; got none. For example Region"),
    "half a class": (lambda: Logits(1.5), r"whole numbers in Logits; got \(1.5,\)"),
    "a class by name": (lambda: Contrast("bone", 0), r"whole numbers in Contrast; got \('bone', 0\)"),
    "a label by name": (lambda: Region("bone"), "whole numbers in Region"),
    "an output by name": (lambda: Outputs("age"), "whole numbers in Outputs"),
    "another reduction": (lambda: Region(1, reduce="max"), 'reduce "sum", "mean" or "probability"; got \'max\''),
    "a mask of another kind": (lambda: Region(1, mask=[[1]]), "a tensor as the mask; got list"),
    "class too high": (lambda: Logits(1, 3)(OUTPUT), r"indices from 0 to 2 for Logits\(1, 3\); got \[3\]. The model has 3 outputs"),
    "class below zero": (lambda: Logits(-1)(OUTPUT), r"from 0 to 2 for Logits\(-1\); got \[-1\]"),
    "contrast too high": (lambda: Contrast(0, 7)(OUTPUT), r"from 0 to 2 for Contrast\(yes=0, no=7\); got \[7\]"),
    "output too high": (lambda: Outputs(3)(OUTPUT), r"from 0 to 2 for Outputs\(3\); got \[3\]"),
    "output of one too high": (lambda: Outputs(1)(OUTPUT[:, 0]), r"from 0 to 0 for Outputs\(1\); got \[1\]"),
    "logits of a segmentation": (
        lambda: Logits(1)(torch.zeros(1, 3, 4, 4)),
        r"\(batch, values\) for Logits\(1\); got shape \(1, 3, 4, 4\). For a segmentation model use Region",
    ),
    "region of a classification": (
        lambda: Region(1).fix(OUTPUT),
        r"for Region\(1\); got shape \(2, 3\). For a classifier use Logits",
    ),
    "a dict": (lambda: Logits(1)({"a": OUTPUT, 3: 0}), "a dict with the keys 'a', 3. Name the part to explain"),
    "a tuple": (lambda: Outputs()((OUTPUT, None)), r"a tuple of 2: \[\(2, 3\), 'NoneType'\]. Name the part"),
    "a list": (lambda: Region(1).fix([OUTPUT]), r"a list of 1: \[\(2, 3\)\]"),
    "nothing": (lambda: Logits(1)(None), "a tensor as the model's output; got NoneType"),
    "labels": (lambda: Logits(0)(OUTPUT.long()), r"got a tensor of torch.int64 \(labels after an argmax\?\).*logits"),
    "a label map": (lambda: Region(1).fix(torch.zeros(1, 4, 4, 4, dtype=torch.uint8)), "got a tensor of torch.uint8"),
    "a mask of ones and zeros": (lambda: Select("b", Logits(0))({"b": OUTPUT > 3}), "got a tensor of torch.bool"),
    "missing key": (lambda: Select("b", Logits(0))({"a": OUTPUT}), r"a part 'b' in the model's output; got the keys \['a'\]"),
    "missing position": (lambda: Select(2, Logits(0))((OUTPUT, OUTPUT)), "a part 2 in the model's output; got positions 0 to 1"),
    "key for a list": (lambda: Select("a", Logits(0)).fix([OUTPUT]), "a part 'a' in the model's output; got positions 0 to 0"),
    "key for a tensor": (lambda: Select("a", Logits(0))(OUTPUT), "got a Tensor, which needs no selector"),
    "position in a tensor": (lambda: Select(0, Region(1)).fix(torch.zeros(2, 3, 4, 4, 4)), "got a Tensor, which needs no selector"),
    "key for nothing": (lambda: Select(0, Logits(0))(None), "got a NoneType"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_explained_is_refused(case: str) -> None:
    act, message = REFUSED[case]
    with pytest.raises(BadInput, match=message):
        act()


def test_a_selector_opens_dicts_tuples_lists_and_nests() -> None:
    class Both(NamedTuple):
        logits: Tensor
        features: Tensor

    truth = [[2, 16]]
    assert Select("a", Logits(1))({"a": OUTPUT}).tolist() == truth
    assert Select("a", Logits(1))(OrderedDict(a=OUTPUT)).tolist() == truth
    assert Select(1, Logits(1))((None, OUTPUT)).tolist() == truth
    assert Select(-1, Logits(1))([None, OUTPUT]).tolist() == truth
    assert Select(0, Logits(1))(Both(OUTPUT, OUTPUT)).tolist() == truth
    assert Select("a", Select(0, Logits(1)))({"a": [OUTPUT]}).tolist() == truth
    assert Select("a", Outputs()).fix({"a": OUTPUT}) == Select("a", Outputs(0, 1, 2))


# Two images of 2 x 3 pixels, three classes; the predictions are [[0, 1, 1], [2, 2, 1]] and [[1, 1, 1], [0, 2, 0]].
PREDICTED = torch.tensor([[[0, 1, 1], [2, 2, 1]], [[1, 1, 1], [0, 2, 0]]])
LOGITS = torch.arange(36.0).reshape(2, 3, 2, 3) / 10 + 9 * torch.nn.functional.one_hot(PREDICTED, 3).movedim(-1, 1)


def gathered(label: int, weight) -> list[float]:
    """The score as a sum over voxels, one by one."""
    return [sum(float(LOGITS[b, label, i, j]) * float(weight(b, i, j)) for i in range(2) for j in range(3)) for b in range(2)]


@pytest.mark.parametrize("labels", [(1,), (2, 0, 1)])
def test_a_region_adds_up_the_logits_where_the_model_predicts_it(labels: tuple[int, ...]) -> None:
    fixed = Region(*labels).fix(LOGITS)
    assert torch.equal(fixed.mask.long(), PREDICTED)
    truth = [gathered(l, lambda b, i, j, l=l: PREDICTED[b, i, j] == l) for l in labels]
    assert torch.allclose(fixed(LOGITS), torch.tensor(truth))


def test_a_region_as_a_mean_divides_by_its_voxels() -> None:
    truth = [gathered(l, lambda b, i, j, l=l: (PREDICTED[b, i, j] == l) / (PREDICTED[b] == l).sum()) for l in (1, 2)]
    assert torch.allclose(Region(1, 2, reduce="mean").fix(LOGITS)(LOGITS), torch.tensor(truth))


def test_a_region_by_probability_counts_every_voxel() -> None:
    P = LOGITS.exp() / LOGITS.exp().sum(1, keepdim=True)
    truth = [gathered(l, lambda b, i, j, l=l: P[b, l, i, j]) for l in (2, 0)]
    assert torch.allclose(Region(2, 0, reduce="probability").fix(LOGITS)(LOGITS), torch.tensor(truth))


def test_a_single_channel_is_two_classes() -> None:
    f = torch.tensor([[[[-2.0, 1.0, 0.5]]]])
    assert Region(0, 1).fix(f)(f).flatten().tolist() == [2.0, 1.5]
    p = f.sigmoid()
    truth = torch.stack([(-f * (1 - p)).sum(), (f * p).sum()])
    assert torch.allclose(Region(0, 1, reduce="probability").fix(f)(f).flatten(), truth)
    with pytest.raises(BadInput, match=r"from 0 to 1 for Region\(2\)"):
        Region(2).fix(f)


def test_a_fixed_region_does_not_move() -> None:
    for reduce in ("sum", "mean", "probability"):
        fixed = Region(1, reduce=reduce).fix(LOGITS)
        again = fixed.fix(LOGITS.roll(1, 1))
        assert again == fixed
        assert torch.equal(again(LOGITS), fixed(LOGITS))
        assert fixed != Region(1, reduce=reduce)
        assert fixed != Region(1, reduce=reduce).fix(LOGITS.roll(1, 1))
        assert not fixed(LOGITS).requires_grad


def test_a_region_has_the_gradient_of_its_weights() -> None:
    logits = LOGITS.clone().requires_grad_()
    targets = Region(1, reduce="probability").fix(logits)
    gradient = torch.autograd.grad(targets(logits).sum(), logits)[0]
    assert torch.allclose(gradient[:, 1], LOGITS.softmax(1)[:, 1])  # and none through the probabilities
    assert not gradient[:, [0, 2]].any()


def test_a_mask_of_ones_own_replaces_the_prediction() -> None:
    labels = torch.tensor([[[1, 0, 2], [1, 0, 0]], [[0, 0, 1], [2, 2, 2]]])
    truth = [gathered(l, lambda b, i, j, l=l: labels[b, i, j] == l) for l in (2, 1)]
    for kind in (torch.int64, torch.uint8, torch.int16):
        assert torch.allclose(Region(2, 1, mask=labels.to(kind)).fix(LOGITS)(LOGITS), torch.tensor(truth))
    where = labels == 1
    truth = [gathered(l, lambda b, i, j: where[b, i, j]) for l in (0, 1)]
    assert torch.allclose(Region(0, 1, mask=where).fix(LOGITS)(LOGITS), torch.tensor(truth))
    truth = [[value / where[b].sum() for b, value in enumerate(row)] for row in truth]
    assert torch.allclose(Region(0, 1, mask=where, reduce="mean")(LOGITS), torch.tensor(truth))


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_one_mask_serves_a_whole_batch(reduce: str) -> None:
    where = torch.tensor([[True, False, True], [False, False, True]])
    count = 3 if reduce == "mean" else 1
    truth = torch.tensor([gathered(1, lambda b, i, j: where[i, j] / count)])
    for mask in (where, where[None], where.expand(2, -1, -1), where.int()):
        targets = Region(1, mask=mask, reduce=reduce)
        assert torch.allclose(targets(LOGITS), truth)
        assert torch.allclose(targets.fix(LOGITS)(LOGITS), truth)


MASKS = {
    "another grid": (torch.ones(2, 3, 2).int(), r"a mask on the output's grid: \(2, 2, 3\) or \(2, 3\); got shape \(2, 3, 2\)"),
    "another batch": (torch.ones(3, 2, 3).int(), r"got shape \(3, 2, 3\)"),
    "a channel axis": (torch.ones(2, 1, 2, 3).int(), r"got shape \(2, 1, 2, 3\).*channel axis"),
    "real numbers": (
        torch.ones(2, 2, 3),
        r"a mask of whole numbers or booleans.*got torch.float32 and reduce='sum'.*mask.long\(\)",
    ),
    "no voxel of the label": (torch.zeros(2, 2, 3).int(), "at least one voxel in each target region; got none for label 1"),
    "no voxel in one image": (torch.tensor([1, 0])[:, None, None].expand(2, 2, 3), "got none for label 1"),
    "no voxel at all": (torch.zeros(2, 3, dtype=torch.bool), "got none for label 1"),
}


@pytest.mark.parametrize("case", MASKS)
def test_a_mask_that_does_not_fit_is_refused(case: str) -> None:
    mask, message = MASKS[case]
    with pytest.raises(BadInput, match=message):
        Region(1, mask=mask).fix(LOGITS)


def test_regions_that_cannot_be_are_refused() -> None:
    with pytest.raises(BadInput, match=r"fixed before the explanation starts; got Region\(1\), which has none yet"):
        Region(1)(LOGITS)
    with pytest.raises(BadInput, match=r"indices from 0 to 2 for Region\(3\); got \[3\]"):
        Region(3).fix(LOGITS)
    with pytest.raises(BadInput, match=r"none for label 2, 1. The model predicts no such voxel here"):
        Region(2, 0, 1).fix(LOGITS - 99 * torch.tensor([0.0, 1, 1])[:, None, None])
    with pytest.raises(BadInput, match=r"none for probabilities; got torch.int32 and reduce='probability'"):
        Region(1, mask=torch.ones(2, 2, 3).int(), reduce="probability").fix(LOGITS)


def test_a_region_says_how_large_its_mask_is() -> None:
    assert repr(Region(1, mask=torch.ones(2, 3, 4).int())) == "Region(1, mask=<2x3x4>)"
    assert repr(Region(1, 2, reduce="mean")) == "Region(1, 2, reduce='mean')"
