"""Draw the pictures of docs/agg2exp.md from a study that was run and analysed, for its first method.

radiolucent study run examples/hippocampus/study.toml --out STUDY
radiolucent study analyse STUDY
python examples/hippocampus/cohort_pictures.py STUDY docs
"""

from __future__ import annotations

import sys
from pathlib import Path

from pandas import DataFrame

from radiolucent.report import cohort_figures as draw
from radiolucent.report.figures import png
from radiolucent.study import Study
from radiolucent.study.analysing import read_analysis


def main() -> None:
    study, out = Study.open(sys.argv[1]), Path(sys.argv[2])
    tables = read_analysis(study)
    first = tables["importance"]["method"].iloc[0]

    def of(frame: DataFrame) -> DataFrame:
        return frame[frame["method"] == first]

    importance, rows = of(tables["importance"]), of(study.rows())
    target = importance["target"].iloc[-1]
    figures = {
        "importance": draw.heat_map(importance, of(tables["classes"])),
        "spread": draw.distributions(rows, importance, target),
        "anomaly": draw.anomaly_against_quality(of(tables["anomaly"]), study.cases()),
        "ranking": draw.anomaly_ranking(of(tables["ranking"]), most=6, least=3),
    }
    for name, figure in figures.items():
        (out / f"agg2exp-{name}.png").write_bytes(png(figure, 80))
    for name in ("importance", "anomaly_quality", "bias"):
        print(f"\n{name}\n{of(tables[name]).to_string(index=False)}")


if __name__ == "__main__":
    main()
