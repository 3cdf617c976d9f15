"""Settings of the mesh views. The defaults are those of MEF's renders (You et al., ICLR 2025), as far as a setting has a counterpart there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError
from perception.core.types import Camera

PUBLISHED_SIZE_PX, PUBLISHED_FOCAL_PX = 512, 560.0


@dataclass(frozen=True, kw_only=True)
class MeshViewsConfig(Checked):
    """Views of a mesh whose bounding box is centred on the origin and has 1 as its longest side."""

    num_views: Annotated[int, Range(1, 10_000)] = 42
    """Viewpoints, spread evenly over the sphere."""
    distance: Annotated[float, Range(1.0, 100.0, "longest sides")] = 2.0
    """From the camera to the middle of the object."""
    size_px: Annotated[int, Range(16, 4096, "px")] = PUBLISHED_SIZE_PX
    """Width and height of a view."""
    focal_px: Annotated[float, Range(0.0, 100_000.0, "px")] = 0.0
    """Focal length; 0: 560 for 512 pixels, and in this ratio for other sizes."""
    principal_point_px: tuple[float, ...] = ()
    """x and y of the principal point, pixel centres at integers; empty: half the size."""
    up_axis: Literal["auto", "y", "z"] = "auto"
    """Which axis of the file points up; auto: y for glTF, whose standard says so (Blender turns these on import, too), z for the others."""
    supersampling: Annotated[int, Range(1, 8)] = 2
    """Rays per pixel, squared, along outlines."""
    lighting: Literal["varied", "published"] = "varied"
    """varied: up to `num_lights` drawn from the seed; published: the three point lights of MEF, which go with the camera."""
    num_lights: Annotated[int, Range(1, 16)] = 4
    """At most so many lights are drawn; each is a point or far away."""
    relight: Literal["view", "object"] = "view"
    """Whether lights are drawn for each view or once for an object, to which they then keep still."""
    shadows: bool = False
    """Whether parts of the object throw shadows on each other; takes about twice the time."""
    background: str = "black"
    """A colour (#rrggbb or black, grey, white), `photographs` for those that scikit-image ships, or a folder of images."""
    num_threads: Annotated[int, Range(0, 256)] = 0
    """Views rendered at the same time; 0: as many as there are cores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.principal_point_px) not in (0, 2):
            raise ConfigError(f"MeshViewsConfig.principal_point_px = {list(self.principal_point_px)}: must be x and y, or empty")

    @property
    def camera(self) -> Camera:
        """Intrinsics of all views. BlenderProc, which rendered MEF's, has pixel centres at integers as we do (`set_intrinsics_from_K_matrix`)."""
        focal = self.focal_px or PUBLISHED_FOCAL_PX * self.size_px / PUBLISHED_SIZE_PX
        x, y = self.principal_point_px or (self.size_px / 2, self.size_px / 2)
        return Camera(self.size_px, self.size_px, focal, focal, x, y)
