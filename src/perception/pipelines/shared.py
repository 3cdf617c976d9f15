"""One feature extractor for all pipelines of a process that ask for the same one, and each frame computed once.

Two cameras, or the `features` and `object_pose` nodes in one process, then share weights and results.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict

from perception.core.errors import InputError
from perception.core.types import FeatureMap, Frame
from perception.pipelines.dense_features import DenseFeatures, DenseFeaturesConfig

_NUM_KEPT = 4
_FINGERPRINT_ROWS = 8

_Key = tuple[str, int, tuple[int, ...], int]


class SharedFeatures(DenseFeatures):
    """DenseFeatures behind a lock; the last few results are handed on by reference to whoever asks for the same frame.

    Frames are the same when source, stamp, size and a checksum over every eighth row are equal: views without stamps
    (all zero) are then never mixed up.
    """

    def __init__(self, config: DenseFeaturesConfig) -> None:
        super().__init__(config)
        self._lock = threading.Lock()
        self._results: OrderedDict[_Key, FeatureMap] = OrderedDict()
        self.num_computed = 0

    def step(self, frame: Frame) -> FeatureMap:
        """The descriptors of one frame, computed unless they are among the last few; safe to call from several threads."""
        key = (frame.source, frame.time_ns, frame.image.shape, zlib.crc32(frame.image[::_FINGERPRINT_ROWS].tobytes()))
        with self._lock:
            result = self._results.get(key)
            if result is None:
                result = super().step(frame)
                self.num_computed += 1
                self._results[key] = result
                while len(self._results) > _NUM_KEPT:
                    self._results.popitem(last=False)
            return result


_registry_lock = threading.Lock()
_instances: dict[DenseFeaturesConfig, tuple[SharedFeatures, int]] = {}


def shared_features(config: DenseFeaturesConfig) -> DenseFeatures:
    """The process's instance for `config`, made on the first call. Each call needs one `release_features(config)`."""
    with _registry_lock:
        instance, num_users = _instances.get(config, (None, 0))
        if instance is None:
            instance = SharedFeatures(config)
        _instances[config] = (instance, num_users + 1)
        return instance


def release_features(config: DenseFeaturesConfig) -> None:
    """Give one use back; the last one frees the extractor and its kept results. Releasing what is not held is an error."""
    with _registry_lock:
        if config not in _instances:
            raise InputError(f"features of {config.extractor!r} were released more often than they were taken")
        instance, num_users = _instances.pop(config)
        if num_users > 1:
            _instances[config] = (instance, num_users - 1)
