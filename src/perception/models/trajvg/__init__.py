"""TrajVG (Miao et al., "TrajVG: 3D trajectory-coupled visual geometry learning"; point maps, poses and tracks in space): our own network.

Reads the public checkpoint (trajvg_checkpoint.bin, non-commercial) key for key. Layout, constants and order of operations follow xingy038/TrajVG at
24a4d37; the code is written from these facts.
"""

from perception.models.trajvg.config import TrackerConfig, TrajVGConfig, trajvg_large, trajvg_released, trajvg_tiny
from perception.models.trajvg.network import TrajVG, TrajVGEstimate, query_grid
from perception.models.trajvg.tracker import Tracker, TrackEstimate

__all__ = [
    "TrackEstimate",
    "Tracker",
    "TrackerConfig",
    "TrajVG",
    "TrajVGConfig",
    "TrajVGEstimate",
    "query_grid",
    "trajvg_large",
    "trajvg_released",
    "trajvg_tiny",
]
