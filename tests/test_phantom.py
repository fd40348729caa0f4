"""Phantoms: volumes that are known, mirrors that swap sides, seeds that repeat, contrasts like a T1 scan's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator

from radiolucent import BadInput, Parcellation, Volume, geometry
from radiolucent.geometry import Grid
from radiolucent.io.tables import Name
from radiolucent.phantom import Deformation, Phantom, blurred, mirrored, sampled, volumes

STILL = Deformation(0, 0, 0, 0, 0)
PLAIN = Phantom(deformation=STILL, mirror=False, contrast=0, texture=0, blur=0, bias=0, noise=0)
NAMES = {
    2: Name("Cerebral White Matter", "left"),
    41: Name("Cerebral White Matter", "right"),
    4: Name("Lateral Ventricle", "left"),
    43: Name("Lateral Ventricle", "right"),
    3: Name("Cerebral Cortex"),
    507: Name("scalp"),
    9: Name("never here"),
}


def head(orientation: str = "RAS", spacing: float = 2.0) -> Parcellation:
    """A ball of scalp, cortex and white matter with two ventricles, the left one larger."""
    x, y, z = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in (40, 44, 36)], indexing="ij")
    r = np.sqrt(x**2 + y**2 + z**2)
    labels = np.zeros(r.shape, np.int32)
    for reach, (left, right) in ((16, (507, 507)), (14, (3, 3)), (12, (2, 41))):
        labels[r < reach] = np.where(x < 0, left, right)[r < reach]
    labels[np.sqrt((x + 5) ** 2 + y**2 + z**2) < 4] = 4
    labels[np.sqrt((x - 5) ** 2 + y**2 + z**2) < 3] = 43
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = [-39, -50, -20]
    volume = Volume(labels[None], affine)
    return Parcellation(volume.on(geometry.reorient(volume.grid, orientation), nearest=True), NAMES)


def test_volumes_are_the_voxels_of_the_labels() -> None:
    for seed in range(3):
        scan, anatomy, known = Phantom()(head(), seed)
        counted = {v: 8.0 * np.count_nonzero(anatomy.labels.data == v) for v in NAMES}
        assert known == pytest.approx({anatomy.titles[v]: counted[v] for v in NAMES}, rel=1e-9)
        assert known["never here"] == 0
        assert known["Lateral Ventricle (left)"] != volumes(head())["Lateral Ventricle (left)"]
        assert scan.grid == anatomy.labels.grid


def test_without_chance_it_is_the_label_map_with_typical_intensities() -> None:
    source = head("LIA")
    scan, anatomy, known = PLAIN(source, 0)
    turned = source.labels.on(geometry.reorient(source.labels.grid, "RAS"), nearest=True)
    assert anatomy.labels.grid == turned.grid
    assert np.array_equal(anatomy.labels.data, turned.data)
    assert known == volumes(source)
    for value, intensity in {0: 0.0, 2: 0.95, 41: 0.95, 4: 0.2, 43: 0.2, 3: 0.62}.items():
        np.testing.assert_allclose(scan.data[turned.data == value], intensity, rtol=1e-6)


def test_a_mirror_swaps_the_sides_and_nothing_else() -> None:
    for orientation in ("RAS", "LIA", "PSR"):
        source = head(orientation)
        seen = mirrored(source)
        before, after = volumes(source), volumes(seen)
        assert after["Lateral Ventricle (left)"] == before["Lateral Ventricle (right)"] < before["Lateral Ventricle (left)"]
        assert after["Lateral Ventricle (right)"] == before["Lateral Ventricle (left)"]
        x = np.argwhere(seen.labels.data[0] == 4).mean(0)
        world = seen.labels.affine[:3, :3] @ x + seen.labels.affine[:3, 3]
        assert world[0] < 0  # what is called left still lies on the left
        assert np.array_equal(mirrored(seen).labels.data, source.labels.data)


def test_half_of_the_scans_are_mirrored() -> None:
    sides = [replace(PLAIN, mirror=True)(head(), seed).volumes for seed in range(60)]
    swapped = sum(v["Lateral Ventricle (left)"] < v["Lateral Ventricle (right)"] for v in sides)
    assert 18 <= swapped <= 42


def test_the_seed_decides_and_torchs_own_numbers_stay() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (Phantom()(head(), seed) for seed in (1, 1, 2))
    assert np.array_equal(first.scan.data, again.scan.data)
    assert np.array_equal(first.anatomy.labels.data, again.anatomy.labels.data)
    assert not np.array_equal(first.scan.data, other.scan.data)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_coarser_scan_covers_the_same_place_and_keeps_the_mean() -> None:
    fine = PLAIN(head(), 0)
    coarse = replace(PLAIN, factor=2)(head(), 0)
    assert coarse.scan.grid == geometry.coarsen(fine.scan.grid, (20, 22, 18))
    blocks = fine.scan.data[0].reshape(20, 2, 22, 2, 18, 2).mean((1, 3, 5))
    np.testing.assert_allclose(coarse.scan.data[0], blocks, atol=1e-6)
    assert coarse.volumes == fine.volumes
    small = replace(PLAIN, size=(30, 30, 30))(head(), 0)
    assert small.scan.data.shape == (1, 30, 30, 30)
    assert small.volumes["Lateral Ventricle (left)"] == fine.volumes["Lateral Ventricle (left)"]  # the head's middle was kept
    assert small.volumes["scalp"] < fine.volumes["scalp"]  # out of view is not counted


def test_contrasts_are_those_of_a_t1_scan() -> None:
    for seed in range(4):
        scan, anatomy, _ = Phantom()(head(), seed)
        white, grey, fluid = (scan.data[np.isin(anatomy.labels.data, labels)] for labels in ((2, 41), (3,), (4, 43)))
        assert np.median(white) > 1.2 * np.median(grey) > 1.5 * np.median(fluid)
        assert scan.data.min() >= 0


def test_noise_in_air_is_rayleigh_distributed() -> None:
    scan, anatomy, _ = replace(PLAIN, noise=0.1)(head(), 3)
    air = scan.data[anatomy.labels.data == 0]
    assert air.mean() / np.sqrt((air**2).mean()) == pytest.approx(np.sqrt(np.pi) / 2, abs=0.01)


def test_an_affine_change_scales_volumes_by_its_determinant() -> None:
    """Source places under a scaling A: what the labels show is smaller by det A."""
    grid = Grid((60, 60, 60), np.diag([2.0, 2.0, 2.0, 1.0]))
    x = torch.stack(torch.meshgrid(*[torch.arange(60.0) - 29.5] * 3, indexing="ij"), -1)
    ball = (x.norm(dim=-1) < 15).int()[None]
    for seed in range(4):
        places = Deformation(20, 0.2, 0.1, 3, 0)(grid, Generator().manual_seed(seed))
        a = torch.stack([places[30, 29, 29] - places[29, 29, 29], places[29, 30, 29] - places[29, 29, 29]])
        a = torch.cat([a, (places[29, 29, 30] - places[29, 29, 29])[None]]).T
        moved = sampled(ball, places, nearest=True)
        assert int(moved.sum()) * float(torch.det(a)) == pytest.approx(int(ball.sum()), rel=0.02)


def test_elastic_places_have_the_spread_that_is_asked_for() -> None:
    grid = Grid((48, 48, 48), np.diag([2.0, 1.0, 1.5, 1.0]))
    still = STILL(grid, Generator().manual_seed(0))
    u = [Deformation(0, 0, 0, 0, 2.0, 12.0)(grid, Generator().manual_seed(s)) - still for s in range(6)]
    at_knots = torch.stack([(moved * torch.tensor([2.0, 1.0, 1.5]))[0, 0, 0] for moved in u])  # a corner is a knot
    assert at_knots.std().item() == pytest.approx(2.0, rel=0.5)
    torch.testing.assert_close(still[7, 8, 9], torch.tensor([7.0, 8.0, 9.0]))


def test_sampling_is_what_scipy_does() -> None:
    from scipy.ndimage import map_coordinates

    generator = Generator().manual_seed(0)
    data = torch.rand((1, 6, 7, 8), generator=generator)
    places = torch.rand((50, 1, 1, 3), generator=generator) * torch.tensor([5.0, 6.0, 7.0])
    expected = map_coordinates(data[0].numpy(), places.reshape(-1, 3).T.numpy(), order=1)
    np.testing.assert_allclose(sampled(data, places).flatten(), expected, atol=1e-5)
    outside = torch.tensor([[[[-1.0, 2, 2], [2, 2, 7.6], [2, 2, 7.4]]]])
    found = sampled(data, outside, nearest=True).flatten()
    assert found[:2].tolist() == [0, 0]
    assert found[2] == data[0, 2, 2, 7]


def test_the_blur_is_a_gaussian_in_mm() -> None:
    from scipy.ndimage import gaussian_filter

    image = torch.rand((1, 12, 13, 14), generator=Generator().manual_seed(0))
    expected = gaussian_filter(image[0].double().numpy(), [1.5, 1.0, 0.75], mode="nearest", radius=[5, 3, 3])
    np.testing.assert_allclose(blurred(image, 1.5, (1.0, 1.5, 2.0))[0], expected, atol=1e-5)
    assert torch.equal(blurred(image, 0.0, (1.0, 1.0, 1.0)), image)


def test_bad_settings_and_maps() -> None:
    with pytest.raises(BadInput, match=r"settings of 0 or more; got \{'noise': -1\}"):
        Phantom(noise=-1)
    with pytest.raises(BadInput, match="a size of 3 axes that the factor divides"):
        Phantom(size=(9, 8, 8), factor=2)
    with pytest.raises(BadInput, match="a lattice of knots above 0"):
        Deformation(knots=0)
    flat = Parcellation(Volume(np.ones((1, 4, 4), np.int32)), {1: Name("Cortex")})
    with pytest.raises(BadInput, match="a 3D label map"):
        Phantom()(flat, 0)
    nameless = Parcellation(Volume(np.ones((1, 4, 4, 4), np.int32)), {1: Name("liver")})
    with pytest.raises(BadInput, match="a region whose name contains one of white matter"):
        Phantom(size=(2, 2, 2))(nameless, 0)
