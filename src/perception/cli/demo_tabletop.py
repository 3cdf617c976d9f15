"""`perception demo`: a rendered table-top scene with a printed box and a can whose true poses are known in every frame.

Both ways of learning an object are shown: the box from its mesh, as `perception onboard` does it; the can from a posed RGB-D clip, by the
running node's own `~/onboard` service.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.cli.demo import Arguments
from perception.cli.demo_stream import (
    CAMERA_INFO_TOPIC,
    IMAGE_TOPIC,
    OnboardRequest,
    Stream,
    features_config,
    played_command,
    run_nodes,
    truth_topic,
    write_results,
)
from perception.cli.onboard import describe, onboard_object
from perception.cli.progress import Step, Steps
from perception.evaluation.run_folder import RunDescription
from perception.io import meshes
from perception.io.bags import BagWriter
from perception.pipelines.one_shot_pose import OneShotPoseConfig
from perception.rendering.raycast import RenderedView
from perception.rendering.reference_sources import ReferenceConfig
from perception.rendering.tabletop import TabletopScene
from perception.rendering.viewpoints import look_at

FROM_MESH, FROM_CLIP = "box", "can"
NUM_FRAMES, NUM_CLIP_FRAMES = 60, 24
PERIOD_NS = 33_333_333
START_NS = 1_000_000_000
CLIP_DEPTH_TOPIC, CLIP_POSE_TOPIC = "/camera/depth/image_raw", "/object/pose"
FRAME_ID = "camera_optical_frame"
_SUMMARY = (
    "A rendered table top with known poses. The box was learnt from its mesh by the onboard command, the can from an RGB-D clip by the node's "
    "~/onboard service; the features and object_pose nodes ran as processes, fed from a bag in simulated time."
)
_MESH_SIZE_PX = 288
"""The box just fills such a picture."""
_MESH_DISTANCE = 3.0
"""Box sides between the rendering camera and the mesh: about the size at which the demo's camera sees it, as dense SIFT knows no scale."""


def run(arguments: Arguments) -> int:
    """Prints a table of both objects' pose errors and the path of the report."""
    steps, out = Steps(), arguments.out or Path("runs/demo")
    features = features_config(arguments)
    with steps.step("build the scene"):
        scene = TabletopScene()
        mesh_path = out / f"{FROM_MESH}.obj"
        out.mkdir(parents=True, exist_ok=True)
        meshes.save(scene.objects[FROM_MESH].mesh, mesh_path)
    with steps.step("render the bag that is played") as step:
        write_stream(scene, arguments.num_frames or NUM_FRAMES, out / "bag", step)
        step.result = f"{out / 'bag'} with true poses of {FROM_MESH} and {FROM_CLIP}"
    with steps.step(f"render an RGB-D clip of the {FROM_CLIP} on another path") as step:
        write_clip(scene, NUM_CLIP_FRAMES, out / "clip", step)
        step.result = str(out / "clip")
    database = out / f"{FROM_MESH}.safetensors"
    with steps.step(f"onboard {FROM_MESH!r} from its mesh, as `perception onboard` does") as step:
        reference = ReferenceConfig(render_distance=_MESH_DISTANCE, render_size_px=_MESH_SIZE_PX)
        step.result = describe(onboard_object(mesh_path, FROM_MESH, database, features, reference, progress=step.progress), database)
    stream = Stream(out / "bag", truth_topics=(truth_topic(FROM_MESH), truth_topic(FROM_CLIP)))
    clip = OnboardRequest(
        FROM_CLIP,
        str((out / "clip").resolve()),
        {"onboard.reference.depth_topic": CLIP_DEPTH_TOPIC, "onboard.reference.stride": 1},
    )
    config = OneShotPoseConfig(features=features, databases=(str(database.resolve()),))
    recorded = run_nodes(steps, stream, out, config, onboard=[clip], domain_id=arguments.domain_id)
    description = RunDescription("Table-top demo", _SUMMARY, played_command(arguments))
    write_results(steps, stream, recorded, out, config, description, (FROM_MESH, FROM_CLIP))
    return 0


def write_stream(scene: TabletopScene, num_frames: int, path: Path, step: Step) -> None:
    """Images, intrinsics and the true poses of both objects along the scene's camera path."""
    with BagWriter(path, overwrite=True) as writer:
        for index, camera_from_world in enumerate(scene.trajectory(num_frames)):
            time_ns = START_NS + index * PERIOD_NS
            writer.write_camera_info(CAMERA_INFO_TOPIC, time_ns, scene.camera, FRAME_ID)
            for name in (FROM_MESH, FROM_CLIP):
                writer.write_pose(truth_topic(name), time_ns, camera_from_world @ scene.objects[name].world_from_object, FRAME_ID)
            writer.write_image(IMAGE_TOPIC, time_ns, scene.render(camera_from_world).image, frame_id=FRAME_ID)
            step.progress(index + 1, num_frames)


def write_clip(scene: TabletopScene, num_frames: int, path: Path, step: Step) -> None:
    """An RGB-D clip around the object that is learnt from it. Depth is known on the object only: that says which pixels belong to it."""
    world_from_object = scene.objects[FROM_CLIP].world_from_object
    with BagWriter(path, overwrite=True) as writer:
        for index, camera_from_world in enumerate(clip_trajectory(world_from_object[:3, 3], num_frames)):
            time_ns = START_NS + index * PERIOD_NS
            view = scene.render(camera_from_world)
            writer.write_camera_info(CAMERA_INFO_TOPIC, time_ns, scene.camera, FRAME_ID)
            writer.write_pose(CLIP_POSE_TOPIC, time_ns, camera_from_world @ world_from_object, FRAME_ID)
            writer.write_image(CLIP_DEPTH_TOPIC, time_ns, depth_of(view, scene.names.index(FROM_CLIP)), "16UC1", FRAME_ID)
            writer.write_image(IMAGE_TOPIC, time_ns, view.image, frame_id=FRAME_ID)
            step.progress(index + 1, num_frames)


def depth_of(view: RenderedView, instance_id: int) -> NDArray[np.uint16]:
    """(height, width) depth in mm of one object, 0 elsewhere."""
    return np.where(view.instance_ids == instance_id, np.rint(1000 * view.depth_m), 0).astype(np.uint16)


def clip_trajectory(target: NDArray[np.float64], num_frames: int) -> NDArray[np.float64]:
    """(num_frames, 4, 4) camera_from_world: 170 degrees around the target in a wave between 20 and 50 degrees of elevation."""
    share = np.linspace(0, 1, num_frames)
    azimuth, elevation = np.radians(-165 + 170 * share), np.radians(35 + 15 * np.sin(4 * np.pi * share))
    outwards = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], axis=1)
    return np.stack([look_at(target + 0.55 * direction, target) for direction in outwards])
