"""Point trackers that label videos which nobody has annotated, all behind one interface."""

from perception_training.data.pseudo_labels.tracker import TRACKERS, ClipTracker, create_tracker, tracker_class

__all__ = ["TRACKERS", "ClipTracker", "create_tracker", "tracker_class"]
