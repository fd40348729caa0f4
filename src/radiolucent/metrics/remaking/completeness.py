"""Do the parts add up to the whole, where a method promises that?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from radiolucent import baselines
from radiolucent.metrics.finding import Finding
from radiolucent.metrics.remaking.maps import Remade, exact


@dataclass(frozen=True)
class Completeness:
    """How far the sum of the relevance is from what it promises to share out (Sundararajan et al., ICML 2017, section 3).

        CO = |sum_i R[i] - (S(x) - S(x'))| / |S(x) - S(x')|        x' = the method's own baseline

    Lower is better, 0 is exact. Only for methods that promise it (Integrated Gradients, KernelSHAP, Expected Gradients
    from one baseline): others have no value. A wrong map can add up: of two voxels, each may have the other's share.
    Of a map on a grid of cells its own values are added up, before any interpolation. Quantus gives yes or no.
    """

    name = "completeness"
    category = "axiomatic"
    higher_is_better = False

    def __call__(self, maps: Remade) -> list[Finding]:
        if not maps.baseline:
            return [Finding(reason="the method does not promise that its map adds up")] * len(maps.relevance)
        promised = maps.score(maps.x) - maps.score(baselines.baseline(maps.baseline, maps.x))
        found = []
        for t, whole in enumerate(promised[:, 0].tolist()):
            reason = maps.unfit[t] or ("" if whole else f"the score is that of the baseline ({maps.baseline})")
            found.append(exact(math.nan if reason else abs(float(maps.values(t).sum()) - whole) / abs(whole), reason))
        return found
