"""Scores of many changed copies of an image, in chunks that fit into memory: below the methods and metrics that ask for them."""

from radiolucent.scoring.chunks import COPIES, NUMBERS, VOXELS, in_chunks, share
from radiolucent.scoring.copies import Copies, check_scores, score, scoring, unchanged
from radiolucent.scoring.watching import tell, watched

__all__ = [
    "COPIES",
    "NUMBERS",
    "VOXELS",
    "Copies",
    "check_scores",
    "in_chunks",
    "score",
    "scoring",
    "share",
    "tell",
    "unchanged",
    "watched",
]
