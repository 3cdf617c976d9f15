"""perception: 3D-aware dense features, track-coupled reconstruction and one-shot object pose for ROS 2."""

__version__ = "0.1.0"
