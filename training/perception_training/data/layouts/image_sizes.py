"""Sizes of images from their headers, and the camera of an image that was scaled after its camera was calibrated."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from perception.core.errors import InputError
from perception.core.types import Camera

_MAX_ROUNDING_PX = 1.0
"""Scaled sizes are rounded, some up and some down; more than this is another shape of image."""


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) as stored (rotation tags are ignored, as `read_image` does), from the header alone. Raises InputError that names the file."""
    try:
        with Image.open(path) as image:
            return image.size
    except FileNotFoundError as error:
        raise InputError(f"image {path}: cannot be read (no such file)") from error
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"image {path}: its header cannot be decoded: truncated, or not an image ({error})") from error


def camera_of_images(camera: Camera, paths: Iterable[Path], calibration: Path) -> Camera:
    """The camera for the size of the images that share it, judged by the first one that exists; as it is when none does.

    Data sets publish images_4 and images_8 beside intrinsics for the full size. Raises InputError that names image and calibration when the
    image is no scaled version of what the camera takes.
    """
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return camera
    width, height = image_size(path)
    if (width, height) == (camera.width, camera.height):
        return camera
    if abs(width - camera.width * height / camera.height) > _MAX_ROUNDING_PX * (1 + camera.width / camera.height):
        raise InputError(
            f"{path} is {width}x{height} but its intrinsics in {calibration} are for {camera.width}x{camera.height}: "
            "sizes must be equal, or scaled by one factor"
        )
    return camera.resized(width, height)
