"""`perception demo --bag`: any recorded camera stream through the nodes; poses when databases are given, scores when the bag has the truth."""

from __future__ import annotations

from pathlib import Path

from perception.cli.demo import Arguments
from perception.cli.demo_stream import Stream, features_config, played_command, run_nodes, write_results
from perception.cli.progress import Steps
from perception.core.errors import InputError
from perception.evaluation.run_folder import RunDescription
from perception.io.bag_messages import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE
from perception.io.bags import BagReader
from perception.pipelines.object_database import ObjectDatabase
from perception.pipelines.one_shot_pose import OneShotPoseConfig


def run(arguments: Arguments) -> int:
    """Prints a table and the path of the report."""
    assert arguments.bag is not None
    steps, out = Steps(), arguments.out or Path("runs/demo-bag")
    objects = [ObjectDatabase.load(path).name for path in arguments.databases]  # what is wrong with one is said before anything is started
    stream = choose_topics(arguments.bag, arguments.image_topic, arguments.camera_info_topic, needs_camera=bool(objects))
    config = OneShotPoseConfig(features=features_config(arguments), databases=tuple(str(path.resolve()) for path in arguments.databases))
    recorded = run_nodes(steps, stream, out, config, with_poses=bool(objects), domain_id=arguments.domain_id)
    what = "features and object_pose nodes" if objects else "features node (no databases were given, so no object was looked for)"
    description = RunDescription(f"Replay of {arguments.bag.name}", f"{arguments.bag} through the {what}.", played_command(arguments))
    write_results(steps, stream, recorded, out, config, description, objects)
    return 0


def choose_topics(bag: Path, image_topic: str, camera_info_topic: str, *, needs_camera: bool) -> Stream:
    """The bag's only image topic and the CameraInfo beside it, unless they are named. Raises InputError that lists what there is."""
    with BagReader(bag) as reader:
        found = reader.find_topics(IMAGE, COMPRESSED_IMAGE)
        if not image_topic and len(found) != 1:
            raise InputError(f"bag {bag} has {len(found)} image topics ({', '.join(found) or 'none'}): choose one with --image-topic")
        image_topic = image_topic or found[0]
        compressed = reader.require(image_topic, IMAGE, COMPRESSED_IMAGE) == COMPRESSED_IMAGE
        camera_info_topic = camera_info_topic or reader.camera_info_topic_of(image_topic) or ""
        if camera_info_topic or needs_camera:
            reader.require(camera_info_topic or "camera_info", CAMERA_INFO)
        return Stream(bag, image_topic, camera_info_topic, compressed=compressed)
