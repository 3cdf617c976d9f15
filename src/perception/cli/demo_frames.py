"""`perception demo --frames`: the camera's own pose in a scene that was seen before. The whole scene is the object."""

from __future__ import annotations

from pathlib import Path

from perception.cli.demo import Arguments
from perception.cli.demo_stream import CAMERA_INFO_TOPIC, IMAGE_TOPIC, Stream, features_config, played_command, run_nodes, truth_topic, write_results
from perception.cli.onboard import describe, onboard_object
from perception.cli.progress import Step, Steps
from perception.core.errors import InputError
from perception.evaluation.run_folder import RunDescription
from perception.geometry import se3
from perception.io.bags import BagWriter
from perception.io.posed_frames import PosedFrameFolder
from perception.pipelines.one_shot_pose import OneShotPoseConfig
from perception.rendering.reference_sources import ReferenceConfig

OBJECT_NAME = "scene"
_MIN_FRAMES = 4


def run(arguments: Arguments) -> int:
    """Prints a table of the camera's pose error and the path of the report."""
    assert arguments.frames is not None
    steps, out = Steps(), arguments.out or Path("runs/demo-frames")
    folder = PosedFrameFolder(arguments.frames, arguments.colour_focal_px)
    references, queries = split(len(folder), arguments.reference_every, arguments.num_frames)
    features = features_config(arguments)
    database = out / f"{OBJECT_NAME}.safetensors"
    with steps.step(f"onboard the scene from {len(references)} of {len(folder)} frames") as step:
        reference = ReferenceConfig(stride=references.step, end_frame=references.stop, colour_focal_px=arguments.colour_focal_px)
        built = onboard_object(arguments.frames, OBJECT_NAME, database, features, reference, progress=step.progress)
        step.result = describe(built, database)
    with steps.step(f"write the other {len(queries)} frames into a bag") as step:
        write_bag(folder, queries, out / "bag", step)
    stream = Stream(out / "bag", truth_topics=(truth_topic(OBJECT_NAME),))
    config = OneShotPoseConfig(features=features, databases=(str(database.resolve()),))
    recorded = run_nodes(steps, stream, out, config, domain_id=arguments.domain_id)
    summary = (
        f"{len(references)} posed RGB-D frames of the first half of {arguments.frames} are the references, the scene as a whole is the object, and "
        f"{len(queries)} frames of the second half went through the nodes. Errors are of the camera in the scene: distance of the camera centres, "
        "angle between the orientations, against the recorded poses."
    )
    description = RunDescription("Camera pose in a known scene", summary, played_command(arguments), "camera")
    write_results(steps, stream, recorded, out, config, description, (OBJECT_NAME,))
    return 0


def split(num_frames: int, reference_every: int, max_queries: int = 0) -> tuple[range, range]:
    """Indices of the references (every n-th of the first half) and of the frames to find (the second half, `max_queries` at most if not 0)."""
    if num_frames < _MIN_FRAMES:
        raise InputError(f"{num_frames} posed frames: at least {_MIN_FRAMES} are needed, half of them as references")
    half = num_frames // 2
    return range(0, half, reference_every), range(half, min(num_frames, half + max_queries) if max_queries else num_frames)


def write_bag(folder: PosedFrameFolder, indices: range, path: Path, step: Step) -> None:
    """Images, intrinsics and true poses (camera_from_scene) of some frames as a bag."""
    with BagWriter(path, overwrite=True) as writer:
        for done, index in enumerate(indices, 1):
            posed = folder[index]
            time_ns, frame_id = posed.frame.time_ns, posed.frame.frame_id
            assert posed.frame.camera is not None
            writer.write_camera_info(CAMERA_INFO_TOPIC, time_ns, posed.frame.camera, frame_id)
            writer.write_pose(truth_topic(OBJECT_NAME), time_ns, se3.inverse(posed.world_from_camera), frame_id)
            writer.write_image(IMAGE_TOPIC, time_ns, posed.frame.image, frame_id=frame_id)
            step.progress(done, len(indices))
