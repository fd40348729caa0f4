"""Which classes does the model look at alike? Hierarchical clustering of their region profiles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pandas import DataFrame
from scipy.cluster.hierarchy import cophenet, fcluster, leaves_list, linkage
from scipy.spatial.distance import jensenshannon, squareform

from radiolucent.geometry import Array


def classes(importance: DataFrame) -> DataFrame:
    """One row per class: its place in the dendrogram's order, its cluster, and how well it sits there.

        d(a, a') = sqrt( KL(E_a | M) / 2 + KL(E_a' | M) / 2 ),   M = (E_a + E_a') / 2,   KL in bits

    is the Jensen-Shannon distance (Lin 1991; a metric between 0 and 1) of the mean profiles E_a over the regions,
    background included. Average linkage, leaves in the order with the smallest distance between neighbours
    (Bar-Joseph et al. 2001). The number of clusters is the one with the highest mean silhouette (Rousseeuw 1987).
    `cophenetic` is the correlation of the tree's distances with d: below about 0.7, do not trust the tree.

    Known failure: classes that look at nothing but themselves are all equally far from each other.
    """
    rows = []
    for key, targets, distances, tree in _trees(importance):
        order = {int(leaf): place for place, leaf in enumerate(leaves_list(tree))} if len(tree) else {0: 0}
        clusters, silhouettes = _cut(distances, tree)
        # A correlation needs three classes, and distances that differ.
        spread = len(tree) > 1 and np.ptp(squareform(distances)) > 1e-12
        cophenetic = float(cophenet(tree, squareform(distances))[0]) if spread else np.nan
        for i, target in enumerate(targets):
            about = {"order": order[i], "cluster": int(clusters[i]), "silhouette": float(silhouettes[i])}
            rows.append(key | {"target": target} | about | {"cophenetic": cophenetic, "n_classes": len(targets)})
    columns = ["method", "layer", "target", "order", "cluster", "silhouette", "cophenetic", "n_classes"]
    return DataFrame(rows, columns=columns)


def merges(importance: DataFrame) -> DataFrame:
    """The tree behind `classes`, a row per merge, as SciPy's linkage numbers it.

    Nodes 0 to n-1 are the n targets in their order in `classes`; the merge in row i makes node n + i.
    """
    rows = [
        key | {"merge": i, "left": int(left), "right": int(right), "distance": float(distance), "size": int(size)}
        for key, _, _, tree in _trees(importance)
        for i, (left, right, distance, size) in enumerate(tree)
    ]
    return DataFrame(rows, columns=["method", "layer", "merge", "left", "right", "distance", "size"])


def _trees(importance: DataFrame) -> Iterator[tuple[dict[str, str], list[str], Array, Array]]:
    labels = importance[importance["kind"] == "label"]
    for (method, layer), group in labels.groupby(["method", "layer"]):
        targets = list(dict.fromkeys(group["target"]))
        wide = group.pivot(index="target", columns=["label", "region", "hemisphere"], values="mean").fillna(0.0).loc[targets]
        p = wide.to_numpy() / wide.to_numpy().sum(1, keepdims=True)
        distances = np.array([[0.0 if i == j else _distance(p[i], p[j]) for j in range(len(p))] for i in range(len(p))])
        tree = linkage(squareform(distances), "average", optimal_ordering=True) if len(p) > 1 else np.empty((0, 4))
        yield {"method": str(method), "layer": str(layer)}, targets, distances, tree


def _distance(p: Array, q: Array) -> float:
    """Rounding can take the square root of something just below 0."""
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(jensenshannon(p, q, 2)))


def _cut(distances: Array, tree: Array) -> tuple[Array, Array]:
    """Clusters and silhouettes at the best number of clusters; one cluster where there is nothing to choose between."""
    from sklearn.metrics import silhouette_samples

    n = len(distances)
    best, silhouettes, highest = np.ones(n, int), np.full(n, np.nan), -np.inf
    for count in range(2, n):
        clusters = fcluster(tree, count, "maxclust")
        if 1 < len(np.unique(clusters)) < n:
            found = silhouette_samples(distances, clusters, metric="precomputed")
            if found.mean() > highest + 1e-12:
                best, silhouettes, highest = clusters, found, found.mean()
    return best, silhouettes
