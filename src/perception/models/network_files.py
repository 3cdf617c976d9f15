"""Files of weights beside the networks of the registry: what differs, whose a file is, and writing them as safetensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from perception.core.errors import WeightsError
from perception.models.checkpoint_files import read_tensors
from perception.models.networks import NETWORKS, build_network, network_spec, resolve

Precision = Literal["keep", "float32", "float16", "bfloat16"]

_PARALLEL_PREFIX = "module."
_SMALLEST_LIKENESS = 0.5
_NUM_NAMED = 4


@dataclass(frozen=True)
class Comparison:
    """A file beside a network: names by kind, in public names; everything is there and nothing else where all three are empty."""

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    other_shape: tuple[str, ...]
    other_type: tuple[str, ...]
    num_tensors: int
    num_values: int
    types: Mapping[str, int]
    """Type of number → tensors of the file."""

    @property
    def fits(self) -> bool:
        """Whether the network can be loaded from the file."""
        return not (self.missing or self.extra or self.other_shape or self.other_type)

    @property
    def kinds(self) -> dict[str, tuple[str, ...]]:
        """The differences that there are, by kind."""
        kinds = {"missing": self.missing, "extra": self.extra, "other shape": self.other_shape, "other type": self.other_type}
        return {kind: names for kind, names in kinds.items() if names}

    def summary(self, num_named: int = _NUM_NAMED) -> str:
        """Counts and the first names of each kind, in one line."""
        return "; ".join(
            f"{len(names)} {kind}: {', '.join(names[:num_named])}{', …' * (len(names) > num_named)}" for kind, names in self.kinds.items()
        )


@dataclass(frozen=True)
class Likeness:
    """Networks that a file looks like, each as "name (configuration)", and the share of names and shapes that agree, in [0, 1]."""

    networks: tuple[str, ...]
    share: float

    def __str__(self) -> str:
        which = " or ".join(self.networks)
        return f"it is a file of {which}" if self.share == 1 else f"it looks most like {which}: {100 * self.share:.0f} % of names and shapes agree"


def public_tensors(path: Path, *, shapes_only: bool = False, leave_out_others: bool = False) -> dict[str, Tensor]:
    """The tensors of a file of weights under its own names, without the prefix of parallel training; arguments as in `read_tensors`."""
    tensors = read_tensors(path, shapes_only=shapes_only, leave_out_others=leave_out_others)
    if all(name.startswith(_PARALLEL_PREFIX) for name in tensors):
        return {name.removeprefix(_PARALLEL_PREFIX): value for name, value in tensors.items()}
    return tensors


def compare(name: str, tensors: Mapping[str, Tensor], config: object = None) -> Comparison:
    """Tensors under public names beside the network `name`, which is built without memory (on the device "meta")."""
    ours, wanted = _to_ours(name, tensors), _shapes(name, config)
    missing = [key for key in wanted if key not in ours and key not in network_spec(name).optional]
    both = [key for key in wanted if key in ours]
    shapes = {key: f"{tuple(ours[key].shape)} instead of {tuple(wanted[key].shape)}" for key in both if ours[key].shape != wanted[key].shape}
    types = {
        key: f"{_type_name(ours[key])} instead of {_type_name(wanted[key])}"
        for key in both
        if ours[key].is_floating_point() != wanted[key].is_floating_point()
    }
    return Comparison(
        missing=_public_names(name, missing),
        extra=_public_names(name, [key for key in ours if key not in wanted]),
        other_shape=_described(name, shapes),
        other_type=_described(name, types),
        num_tensors=len(tensors),
        num_values=sum(value.numel() for value in tensors.values()),
        types=Counter(_type_name(value) for value in tensors.values()),
    )


def most_like(tensors: Mapping[str, Tensor]) -> Likeness | None:
    """The network of the registry that tensors under public names look like; None where no one shares half of the names and shapes."""
    shares = {f"{name} ({config})": _likeness(name, config, tensors) for name, spec in NETWORKS.items() for config in spec.configurations}
    best = max(shares.values())
    return Likeness(tuple(network for network, share in shares.items() if share == best), best) if best >= _SMALLEST_LIKENESS else None


def read_for(name: str, path: Path, config: object = None) -> dict[str, Tensor]:
    """The tensors of a file under our names, for the network `name`. WeightsError where it does not fit, with the network that it looks like."""
    tensors = public_tensors(path)
    refuse_misfit(name, path, tensors, compare(name, tensors, config))
    return _to_ours(name, tensors)


def refuse_misfit(name: str, path: Path, tensors: Mapping[str, Tensor], comparison: Comparison) -> None:
    """Raises the WeightsError for a file that does not fit."""
    if not comparison.fits:
        likeness = most_like(tensors)
        raise WeightsError(f"weights {path}: are not those of {name} ({comparison.summary()}){f'; {likeness}' if likeness else ''}")


def convert(name: str, source: Path, target: Path, config: object = None, precision: Precision = "keep") -> Comparison:
    """Write the tensors of `source` as safetensors under the same, public names, when they are those of the network `name`.

    Torch files that hold more than tensors are read without executing anything, and the rest is left out. Returns the comparison of what was written.
    """
    from safetensors.torch import save_file

    if target.suffix != ".safetensors":
        raise WeightsError(f"weights {target}: must end with .safetensors")
    if target.exists():
        raise WeightsError(f"weights {target}: exists already; give another file")
    tensors = public_tensors(source, leave_out_others=True)
    comparison = compare(name, tensors, config)
    refuse_misfit(name, source, tensors, comparison)
    tensors = _independent({key: _converted(value, precision) for key, value in tensors.items()})
    partial = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata={"format": "pt", "network": name, "licence": network_spec(name).licence})
        partial.replace(target)
    except OSError as error:
        raise WeightsError(f"weights {target}: cannot be written ({error.strerror})") from error
    return compare(name, tensors, config)


def _converted(value: Tensor, precision: Precision) -> Tensor:
    return value if precision == "keep" or not value.is_floating_point() else value.to(getattr(torch, precision))


def _independent(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values, each contiguous and in memory of its own, as safetensors stores them."""
    owned: set[int] = set()
    result = {}
    for name, value in tensors.items():
        value = value.contiguous()
        start = value.untyped_storage().data_ptr()
        result[name] = value.clone() if start in owned else value
        owned.add(start)
    return result


@cache
def _named_shapes(name: str, config: str | None) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build_network(name, config).state_dict()


def _shapes(name: str, config: object) -> dict[str, Tensor]:
    """The tensors of a network on the device "meta"."""
    if config is None or isinstance(config, str):
        return _named_shapes(name, config)
    with torch.device("meta"):
        return build_network(name, config).state_dict()


def _likeness(name: str, config: str, tensors: Mapping[str, Tensor]) -> float:
    ours, wanted = _to_ours(name, tensors), _shapes(name, config)
    counted = (ours.keys() | wanted.keys()) - set(network_spec(name).optional)
    return sum(key in ours and key in wanted and ours[key].shape == wanted[key].shape for key in counted) / max(len(counted), 1)


def _to_ours(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    place = network_spec(name).to_ours
    return resolve(place)(tensors) if place else dict(tensors)


def _public_names(name: str, keys: list[str]) -> tuple[str, ...]:
    place = network_spec(name).to_public
    return tuple(resolve(place)(dict.fromkeys(keys)) if place else keys)


def _described(name: str, found: Mapping[str, str]) -> tuple[str, ...]:
    """ "public name and what was found" """
    return tuple(f"{_public_names(name, [key])[0]} {description}" for key, description in found.items())


def _type_name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
