"""The miniature scene as samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.support.miniatures.scene import BOX_SIZE_M, miniature_scene

from perception_training.data.sample import ObjectTrack, Sample, Tracks


def scene_tracks(num_frames: int = 4, width: int = 160, height: int = 120) -> Tracks:
    """The scene's surface points through all frames."""
    scene = miniature_scene(num_frames, width, height)
    world = np.broadcast_to(scene.points_world, (num_frames, *scene.points_world.shape)).astype(np.float32)
    queries = np.zeros(scene.points_world.shape[0], np.int64)
    return Tracks(scene.points_px.astype(np.float32), scene.visible, world, queries)


def scene_objects(num_frames: int = 4, width: int = 160, height: int = 120) -> tuple[ObjectTrack, ...]:
    """The scene's box, with its bounds."""
    half = np.array(BOX_SIZE_M) / 2
    poses = miniature_scene(num_frames, width, height).camera_from_object("box")
    return (ObjectTrack("box", poses, mask_id=1, bounds=np.stack([-half, half]), mesh=Path("box.ply"), visible_share=np.ones(num_frames)),)


def scene_sample(num_frames: int = 4, width: int = 160, height: int = 120) -> Sample:
    """A sample that has every field."""
    scene = miniature_scene(num_frames, width, height)
    return Sample(
        dataset="miniature",
        sequence="scene",
        frame_names=tuple(f"frame{number}" for number in range(num_frames)),
        images=scene.images,
        times_s=np.arange(num_frames) / 30,
        cameras=scene.cameras,
        world_from_camera=scene.world_from_camera,
        depth_m=scene.depth_m,
        masks=scene.masks,
        normals=tuple(np.nan_to_num(normals) for normals in scene.normals),
        dynamic=tuple(mask == 2 for mask in scene.masks),
        tracks=scene_tracks(num_frames, width, height),
        objects=scene_objects(num_frames, width, height),
        text="a box and a ball",
    )
