"""CoTracker3 (Karaev et al., "CoTracker3: Simpler and better point tracking by pseudo-labelling real videos", 2024): our own network.

Reads the public checkpoints (scaled_offline.pth, scaled_online.pth; CC BY-NC 4.0) key for key. Layout, constants and order of operations follow
facebookresearch/co-tracker at 82e02e8; the code is written from these facts.
"""

from perception.models.cotracker3.config import OFFLINE, ONLINE, CoTracker3Config
from perception.models.cotracker3.network import CoTracker3, TrackEstimate
from perception.models.cotracker3.weights import load_cotracker3
from perception.models.cotracker3.windows import WindowedTracking, feature_windows, track_in_windows

__all__ = [
    "OFFLINE",
    "ONLINE",
    "CoTracker3",
    "CoTracker3Config",
    "TrackEstimate",
    "WindowedTracking",
    "feature_windows",
    "load_cotracker3",
    "track_in_windows",
]
