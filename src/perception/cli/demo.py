"""Send a stream through the ROS 2 nodes, record what they say, score it where the truth is known, and write report.html.

Without options: a table-top scene is rendered, with known poses of two objects. With --frames: a folder of posed RGB-D frames; every
n-th frame of its first half becomes a reference, the second half is sent through the nodes, and the whole scene is the object, so
that the camera's own pose is found. With --bag: any rosbag2 with images and intrinsics.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from perception.core.errors import ConfigError


@dataclass(frozen=True)
class Arguments:
    """What to play and where the results go."""

    frames: Path | None = None
    """Folder of posed RGB-D frames (frame-000000.color.jpg, .depth.png, .pose.txt, camera-intrinsics.txt)."""
    bag: Path | None = None
    """rosbag2 folder, .mcap or .db3 file with Image (or CompressedImage) and CameraInfo."""
    out: Path | None = None
    """Folder of the results; default: runs/demo, runs/demo-frames or runs/demo-bag. Results of an earlier run there are replaced."""
    extractor: str = ""
    """Dense features to use, such as dense_sift, alike_n or dinov2_small; default: that of the nodes."""
    weights: str = ""
    """Weights of the extractor: a file, a model folder or a hub name."""
    sift_size_px: float = 0.0
    """Size of dense_sift's keypoints in pixels; 0: 4 for small objects (rendered scene), 16 for whole scenes."""
    num_frames: int = 0
    """Frames to play; 0: all of them (60 of the rendered scene)."""
    colour_focal_px: float = 0.0
    """With --frames: focal length of the colour camera in pixels when it differs from camera-intrinsics.txt; 0: as known for the data set."""
    reference_every: int = 5
    """With --frames: which frames of the first half become references."""
    databases: tuple[Path, ...] = ()
    """With --bag: object databases to look for (see `perception onboard`)."""
    image_topic: str = ""
    """With --bag: topic of the images; needed when there are several."""
    camera_info_topic: str = ""
    """With --bag: topic of the intrinsics; default: the one beside the images."""
    domain_id: int | None = None
    """ROS domain of the run, to look on with RViz or Foxglove; default: a free one."""


def run(arguments: Arguments) -> int:
    """Prints a table and the path of the report."""
    if arguments.frames is not None and arguments.bag is not None:
        raise ConfigError("--frames and --bag: give one of them, or none for the rendered scene")
    if arguments.num_frames < 0 or arguments.reference_every < 1:
        raise ConfigError(f"--num-frames {arguments.num_frames}, --reference-every {arguments.reference_every}: must be at least 0 and at least 1")
    if arguments.bag is not None:
        from perception.cli import demo_bag

        return demo_bag.run(arguments)
    if arguments.frames is not None:
        from perception.cli import demo_frames

        return demo_frames.run(arguments)
    from perception.cli import demo_tabletop

    return demo_tabletop.run(arguments)
