"""M3d-CAM's interface (Gotkowski et al., 2020): `from radiolucent.compat import medcam` in the place of its own import.

Same arguments, same files; where M3d-CAM gives a wrong answer or crashes, this gives the right one (docs: migration).
"""

from radiolucent.compat.medcam.evaluation import Evaluator, compute_score
from radiolucent.compat.medcam.wrapper import get_layers, inject, save

__all__ = ["Evaluator", "compute_score", "get_layers", "inject", "save"]
