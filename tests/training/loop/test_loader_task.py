"""Training on a mixture of data sets: the engine and the loader agree on steps."""

import json
from dataclasses import dataclass, field, replace

import torch
from tests.support.miniatures.numbered import MiniatureDataset, MiniatureOptions
from torch import nn

from perception.core.config import Checked
from perception_training.data.augmentation import AugmentationConfig
from perception_training.data.frame_sampling import FrameSamplingConfig
from perception_training.data.loading import LoaderConfig, make_loader
from perception_training.data.mixture import Mixture, MixtureConfig, Source
from perception_training.loop.config import TrainConfig
from perception_training.loop.task import Task
from perception_training.loop.training import train


class Brightness(Task):
    """Learns the mean colour of images; has dropout, so that the generators matter."""

    def __init__(self, config: TrainConfig) -> None:
        self.train = config
        self.module = nn.Sequential(nn.Dropout(0.3), nn.Conv2d(3, 2, 3), nn.Conv2d(2, 3, 1))
        frames = FrameSamplingConfig(num_frames=1)
        dataset = MiniatureDataset(MiniatureOptions(lengths=(5,) * 4, has_depth=False))
        source = Source("miniature", dataset, frames, AugmentationConfig(height=24, width=32, flip_probability=0.5))
        self.mixture = Mixture([source], MixtureConfig(seed=config.seed))
        self.seen = []

    def data(self, start, rank, world_size):
        config = LoaderConfig(batch_size=self.train.batch_size, num_workers=self.train.num_workers)
        return make_loader(self.mixture, config, start, rank, world_size)

    def losses(self, batch):
        self.seen.append(batch.frame_names)
        images = batch.images[:, 0] / 255
        return {"colour": (1.0, (self.module(images).mean((2, 3)) - images.mean((2, 3))).square().mean())}


@dataclass(frozen=True)
class Recipe(Checked):
    train: TrainConfig = field(default_factory=TrainConfig)

    def build(self):
        return Brightness(self.train)


def run(folder, **settings):
    config = TrainConfig(
        out=str(folder), batch_size=3, accumulation=2, num_workers=0, precision="float32", device="cpu", log_every=1, checkpoint_every=2
    )
    return train(Recipe(replace(config, **settings)))


def losses(folder):
    return [json.loads(line)["losses"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_resumed_with_workers_sees_the_data_of_one_without(tmp_path):
    whole = run(tmp_path / "whole", steps=5)
    first = run(tmp_path / "parts", steps=2)
    rest = run(tmp_path / "parts", steps=5, resume=True, num_workers=1)
    assert first.task.seen + rest.task.seen == whole.task.seen
    assert len(whole.task.seen) == 10  # two batches in each of five steps
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert torch.equal(rest.task.module[1].weight, whole.task.module[1].weight)
