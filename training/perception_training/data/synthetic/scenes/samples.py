"""Procedural clips as samples and as a lazy sequence; nothing is rendered before `load`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry import se3
from perception_training.data.sample import ObjectTrack, Sample, Tracks
from perception_training.data.sequences import FrameSequence
from perception_training.data.synthetic.scenes.bodies import bounds, still
from perception_training.data.synthetic.scenes.clips import Clips, render_clips
from perception_training.data.synthetic.scenes.config import ScenesConfig
from perception_training.data.synthetic.scenes.generator import frame_times
from perception_training.data.synthetic.scenes.plan import ClipPlan, plan_clip

DATASET = "scenes"


def clip_name(seed: int) -> str:
    """Name of the sequence of a seed."""
    return f"{seed:08d}"


def frame_names(config: ScenesConfig) -> tuple[str, ...]:
    """Names of the frames of every clip."""
    return tuple(f"{index:04d}" for index in range(config.num_frames))


def render_clip(config: ScenesConfig, seed: int, frames: Sequence[int] | None = None) -> Sample:
    """The clip of a seed (or these frames of it) with all truth. Unit metre; masks hold 1 + the number of the body, objects their poses."""
    return clip_samples(render_clips(config, [seed], "cpu", frames), frames)[0]


def clip_samples(clips: Clips, frames: Sequence[int] | None = None) -> list[Sample]:
    """Samples of rendered clips, in host memory. frames: which were rendered, default all."""
    scene, truth, tracks = clips.scene, clips.truth, clips.tracks
    images = clips.images.permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()
    normals = truth.normal.permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()
    depth, masks, dynamic = (part.cpu().numpy() for part in (truth.depth, truth.object_id, truth.dynamic))
    poses, intrinsics, queries = (part.cpu().numpy() for part in (scene.world_from_camera, scene.intrinsics, clips.queries))
    points_px, points_world, visible = (part.cpu().numpy() for part in (tracks.points_px, tracks.points_world, tracks.visible))
    samples = []
    for index, plan in enumerate(clips.plans):
        names = frame_names(plan.config)
        found = queries[index, :, 0] >= 0
        samples.append(
            Sample(
                dataset=DATASET,
                sequence=clip_name(plan.seed),
                frame_names=names if frames is None else tuple(names[frame] for frame in frames),
                images=tuple(images[index]),
                times_s=clips.times_s[index],
                cameras=tuple(_camera(plan, row) for row in intrinsics[index]),
                world_from_camera=poses[index],
                depth_m=tuple(depth[index]),
                masks=tuple(masks[index]),
                normals=tuple(normals[index]),
                dynamic=tuple(dynamic[index]),
                tracks=Tracks(
                    points_px=points_px[index][:, found].astype(np.float32),
                    visible=visible[index][:, found],
                    points_world=points_world[index][:, found].astype(np.float32),
                    query_frames=queries[index, found, 0].astype(np.int64),
                ),
                objects=_objects(plan, clips.times_s[index], poses[index]),
                text=plan.text,
            )
        )
    return samples


def _camera(plan: ClipPlan, intrinsics: NDArray[np.float64]) -> Camera:
    fx, fy, cx, cy = (float(value) for value in intrinsics)
    return Camera(plan.config.width, plan.config.height, fx, fy, cx, cy)


def _objects(plan: ClipPlan, times_s: NDArray[np.float64], world_from_camera: NDArray[np.float64]) -> tuple[ObjectTrack, ...]:
    """Every body but walls, floor and ground; mask_id as in the masks."""
    camera_from_world = se3.inverse(world_from_camera)
    tracks = []
    for number, body in enumerate(plan.layout.bodies):
        if not body.is_fixture:
            corners = bounds([still(body.name, body.parts, np.eye(4))], np.zeros(1))
            tracks.append(ObjectTrack(body.name, camera_from_world @ body.motion.at(times_s), number + 1, corners))
    return tuple(tracks)


@dataclass(eq=False)
class ProceduralClip(FrameSequence):
    """The clip of one seed. Picklable: it is only settings and a seed."""

    config: ScenesConfig
    seed: int

    def __post_init__(self) -> None:
        self.dataset, self.name = DATASET, clip_name(self.seed)

    @property
    def frame_names(self) -> tuple[str, ...]:
        return frame_names(self.config)

    @functools.cached_property
    def world_from_camera(self) -> NDArray[np.float64]:
        """(T, 4, 4), known from the camera's path without rendering."""
        return plan_clip(self.config, self.seed).path.at(frame_times(self.config))

    def load(self, frames: Sequence[int]) -> Sample:
        """Render these frames only. Tracked points are picked in them."""
        wrong = [frame for frame in frames if not 0 <= frame < len(self)]
        if wrong or not len(frames):
            found = f"frame {wrong[0]}" if wrong else "no frame"
            raise InputError(f"{self.dataset}/{self.name}: {found} was asked for; must be in [0, {len(self)}), at least one")
        return render_clip(self.config, self.seed, frames)
