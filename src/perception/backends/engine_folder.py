"""A folder with one exported network: graph, engine and a record that says what they are. Engines are code, so nothing is loaded that does not match.

    engine.json     the EngineRecord
    model.onnx      the graph; backends onnx and openvino run it, and it is what an engine was built from
    model.engine    of tensorrt and tensorrt_rtx only

A folder is written beside its place and renamed when it is whole. `read_record` reads the record, `verified_file` gives the path of one of its files
after comparing its hash, `check_versions` and `check_gpu` refuse what was built for another library or GPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from perception.backends.backend import IoSpec, TensorSpec
from perception.core.errors import ConfigError, WeightsError

FORMAT = 1
RECORD, GRAPH, ENGINE = "engine.json", "model.onnx", "model.engine"
EngineBackend = Literal["onnx", "openvino", "tensorrt", "tensorrt_rtx"]
EnginePrecision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Accuracy:
    """Outputs compared with the float32 torch network on `num_images` images, not normalised.

    max_error: largest difference · max_share: the same as a share of the largest output · min_cosine, mean_cosine: over the channels of each cell ·
    run_by: what ran the exported form, such as "onnxruntime 1.31.1 on the CPU"; a graph that nothing here can run says "torch, same precision".
    """

    max_error: float
    max_share: float
    min_cosine: float
    mean_cosine: float
    num_images: int
    run_by: str
    images: str = ""
    """Where the images came from."""


@dataclass(frozen=True)
class EngineRecord:
    """All that is known about an exported network.

    key: hash of everything that decides what comes out; an equal key means that there is nothing to do · weights: `weights_digest` of the network ·
    model: name of the extractor with weights and adapter, or of a part of another network · batch sides of the specs are None where the graph takes
    1 to max_batch images · normalisation: what the inputs are, and what of it is inside the graph · dim, stride_px, offset_px: of an extractor's
    descriptors, 0 for other networks · files: name → SHA-256 · versions: library → version at export · gpu: what `gpu_identity` said, empty where any
    will do · targets: compute capabilities that the engine serves, empty where it is the `gpu` alone · timings: seconds of each stage, and `run_ms`
    of one image where it could be run · left_out: what of a network is not in the graph, and what computes it.
    """

    key: str
    weights: str
    model: str
    backend: EngineBackend
    precision: EnginePrecision
    image_size: tuple[int, int]
    max_batch: int
    io_spec: IoSpec
    normalisation: str
    dim: int
    stride_px: int
    offset_px: float
    files: Mapping[str, str]
    versions: Mapping[str, str]
    accuracy: Accuracy
    gpu: str = ""
    targets: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    left_out: str = ""
    format: int = FORMAT


def sha256_of(*paths: Path) -> str:
    """SHA-256 of a file, or of several one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def write_record(folder: Path, record: EngineRecord) -> None:
    """engine.json of a folder."""
    spec = {
        "inputs": [_spec_entry(tensor) for tensor in record.io_spec.inputs],
        "outputs": [_spec_entry(tensor) for tensor in record.io_spec.outputs],
    }
    content = {**dataclasses.asdict(record), "io_spec": spec}
    (folder / RECORD).write_text(json.dumps(content, indent=1, default=dict) + "\n")


def read_record(folder: Path) -> EngineRecord:
    """The record of an exported folder. Raises WeightsError where there is none, or one of another format."""
    path = folder / RECORD
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); a folder written by `perception export` has it") from error
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON ({error}); run `perception export` again") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise WeightsError(f"{path}: format {found}, this version of perception reads {FORMAT}; run `perception export` again")
    try:
        spec = IoSpec(*(tuple(_tensor_spec(entry) for entry in content["io_spec"][kind]) for kind in ("inputs", "outputs")))
        values = {**content, "io_spec": spec, "accuracy": Accuracy(**content["accuracy"]), "image_size": tuple(content["image_size"])}
        values["targets"] = tuple(content["targets"])
        return EngineRecord(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path}: damaged ({error!r}); run `perception export` again") from error


def verified_file(folder: Path, record: EngineRecord, name: str) -> Path:
    """The path of one file of the folder, whose content is what the record says. Raises WeightsError that says what differs."""
    path = folder / name
    if name not in record.files:
        raise WeightsError(f"{folder}: was exported for backend {record.backend} and has no {name}; it has {', '.join(sorted(record.files))}")
    try:
        found = sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); run `perception export` again") from error
    if found != record.files[name]:
        raise WeightsError(
            f"{path}: sha256 {found[:12]}… is not the recorded {record.files[name][:12]}…: changed since it was exported, not loaded; "
            "run `perception export` again"
        )
    return path


def check_versions(folder: Path, record: EngineRecord, present: Mapping[str, str]) -> None:
    """Raise WeightsError where a library in `present` has another version than at export."""
    for library, version in present.items():
        recorded = record.versions.get(library)
        if recorded != version:
            raise WeightsError(
                f"{folder}: was built with {library} {recorded or '(not recorded)'}, this machine has {version}: not loaded; "
                "run `perception export` again"
            )


def check_gpu(folder: Path, record: EngineRecord, present: str, target: str) -> None:
    """Raise WeightsError where the engine was built for another GPU than `present` of compute capability `target` (both empty: none)."""
    wanted = record.gpu or f"a GPU of {', '.join(record.targets)}"
    fits = record.gpu == present if record.gpu else target in record.targets
    if (record.gpu or record.targets) and not fits:
        raise WeightsError(f"{folder}: was built for {wanted}, this machine has {present or 'no GPU'}: not loaded; run `perception export` on it")


def is_current(folder: Path, key: str) -> bool:
    """Whether the folder holds, whole and unchanged, the export of this key."""
    try:
        record = read_record(folder)
        return record.key == key and all(verified_file(folder, record, name) for name in record.files)
    except WeightsError:
        return False


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill; it takes the place of `target` when the block ends, and vanishes when it raises.

    Raises ConfigError where it cannot be written or `target` holds something else than an export.
    """
    if target.exists() and not (target / RECORD).is_file() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(f"out = {target}: exists and is no folder of `perception export`; give another place")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ConfigError(f"out = {target}: cannot be written ({error.strerror}); give another --out, or set PERCEPTION_CACHE") from error
    try:
        partial.chmod(0o755)
        yield partial
        if target.exists():
            shutil.rmtree(target)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def gpu_identity() -> str:
    """Name and compute capability of the GPU that torch uses, such as "NVIDIA H200, SM90"; empty without one."""
    if not torch.cuda.is_available():
        return ""
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()}, SM{major}{minor}"


def _spec_entry(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}


def _tensor_spec(entry: Mapping[str, Any]) -> TensorSpec:
    dtype = getattr(torch, entry["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"no number type {entry['dtype']!r}")
    return TensorSpec(entry["name"], dtype, tuple(entry["shape"]))
