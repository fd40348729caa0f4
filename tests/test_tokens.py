"""Tokens and channels-last layers get their grid back, and every first-order method works on them."""

import pytest
import torch

from radiolucent import BadInput
from radiolucent.hooks.tokens import Form, form

IMAGE_2D, IMAGE_3D = (2, 1, 224, 224), (2, 1, 96, 96, 96)

FORMS = {
    # (shape, image, what it is made of): form
    ((2, 197, 768), IMAGE_2D, None): Form("tokens", (14, 14), 1),
    ((2, 196, 768), IMAGE_2D, None): Form("tokens", (14, 14)),
    ((2, 201, 768), IMAGE_2D, None): Form("tokens", (14, 14), 5),  # class and four registers
    ((2, 50, 768), IMAGE_2D, None): Form("tokens", (7, 7), 1),
    ((2, 216, 768), IMAGE_3D, None): Form("tokens", (6, 6, 6)),
    ((2, 217, 768), IMAGE_3D, None): Form("tokens", (6, 6, 6), 1),
    ((2, 768, 216), IMAGE_3D, None): Form("tokens last", (6, 6, 6)),
    ((2, 288, 64), (2, 1, 96, 192, 64), None): Form("tokens", (6, 12, 4)),
    ((2, 72, 64), (2, 1, 96, 60), None): Form("tokens", (12, 6)),  # no equal patches: 8 x 10 is nearest
    ((2, 169, 64), (2, 1, 31, 31), None): None,  # no patch size gives 13 x 13 cells
    ((2, 9, 64), (2, 1, 31, 31), None): Form("tokens", (3, 3)),  # patches of 10 and a rest of 1
    ((2, 48, 48, 24), (2, 1, 96, 96), None): Form("channels last", (48, 48)),
    ((2, 48, 48, 48), (2, 1, 96, 96), None): Form("channels first", (48, 48)),
    ((2, 48, 48, 48), (2, 1, 96, 96), True): Form("channels last", (48, 48)),
    ((2, 48, 48, 24), (2, 1, 96, 96), False): Form("channels first", (48, 24)),
    ((2, 48, 48, 48, 48), IMAGE_3D, None): Form("channels first", (48, 48, 48)),
    ((2, 24, 24, 24, 96), IMAGE_3D, None): Form("channels last", (24, 24, 24)),
    ((2, 96, 24, 24, 24), IMAGE_3D, True): Form("channels first", (24, 24, 24)),
    ((2, 2, 2, 96), (2, 1, 12, 16), None): Form("channels last", (2, 2)),  # padded patch merging
    ((2, 64, 20, 64, 64), (2, 1, 20, 256, 256), None): Form("channels first", (20, 64, 64)),  # strides 1, 4, 4
    ((2, 320, 5, 8, 8), (2, 1, 20, 256, 256), None): Form("channels first", (5, 8, 8)),
    ((2, 8, 24, 32), (2, 1, 12, 16), None): Form("channels first", (24, 32)),  # finer than the image
    ((2, 8, 1, 1), (2, 1, 12, 16), None): None,
    ((2, 8), IMAGE_2D, None): None,
    ((16, 49, 24), IMAGE_2D, None): None,  # windows folded into the batch
    ((2, 100, 256), (2, 1, 37, 41), None): None,
    ((2, 5, 7), (2, 1, 9), None): Form("channels first", (7,)),
}


@pytest.mark.parametrize(("shape", "image", "last"), FORMS, ids=str)
def test_the_form_of_a_shape(shape, image, last) -> None:
    assert form(shape, image, last) == FORMS[shape, image, last]


def test_tokens_that_fit_in_two_ways_are_refused() -> None:
    with pytest.raises(BadInput, match=r"may be .*6 x 6 x 6.* cells"):
        form((2, 216, 64), (2, 1, 96, 96, 48))


@pytest.mark.parametrize("cells", [(3, 4), (2, 3, 4)], ids=str)
def test_restoring_puts_each_token_in_its_cell(cells) -> None:
    truth = torch.rand(2, 5, *cells)
    rows = truth.flatten(2).transpose(1, 2)
    front = torch.full((2, 3, 5), 9.0)
    for kind, values in {
        "channels first": truth,
        "channels last": truth.movedim(1, -1),
        "tokens": torch.cat([front, rows], 1),
        "tokens last": torch.cat([front, rows], 1).transpose(1, 2),
    }.items():
        extra = 3 if "tokens" in kind else 0
        assert torch.equal(Form(kind, cells, extra).restore(values), truth)
