"""Cut the demo's scan out of the ICBM152 2009 T1 template that the nilearn package carries.

    python examples/hippocampus/make_scan.py src/radiolucent/demo/icbm152-hippocampus.nii.gz

40 x 52 x 40 mm around the right hippocampus, at the template's 1 mm: the extent of a training crop.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

import numpy as np

from radiolucent import Volume, read, write
from radiolucent.geometry import Grid

CENTRE_MM = (27.0, -22.0, -14.0)
SIZE = (40, 52, 40)


def main() -> None:
    template = files("nilearn.datasets").joinpath("data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    head = read(Path(str(template)))
    affine = head.affine.copy()
    affine[:3, 3] = np.round(np.array(CENTRE_MM) - np.array(SIZE) / 2)
    crop = head.on(Grid(SIZE, affine))
    write(sys.argv[1], Volume(crop.data.astype(np.uint8), crop.affine))


if __name__ == "__main__":
    main()
