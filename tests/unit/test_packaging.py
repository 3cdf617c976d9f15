"""What an installation holds: the files that `ros2 launch` and `ros2 run` look for, and metadata that the ROS tools accept."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import tomllib

import perception

ROOT = Path(__file__).resolve().parents[2]
REQUIRED_DEPENDS = {
    *("rclpy", "sensor_msgs", "geometry_msgs", "nav_msgs", "visualization_msgs", "diagnostic_msgs", "std_srvs", "tf2_ros", "vision_msgs", "cv_bridge")
}


@pytest.fixture(scope="module")
def package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh prefix with the package in it, built from a copy so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("packaging")
    source, prefix = folder / "source", folder / "prefix"
    for name in ("src", "training", "launch", "config", "resource"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.egg-info"))
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy2(path, source / path.name)
    # Without --ignore-installed pip would take the copy out of the running environment first.
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed", "--no-compile", "--prefix", str(prefix)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *options, str(source)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return prefix


def test_share_holds_all_that_ros_looks_for(installed: Path) -> None:
    share = installed / "share" / "perception"
    assert (share / "package.xml").read_text() == (ROOT / "package.xml").read_text()
    assert (installed / "share" / "ament_index" / "resource_index" / "packages" / "perception").is_file()
    for folder in ("launch", "config"):
        expected = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        assert expected == {path.relative_to(share) for path in (share / folder).rglob("*") if path.is_file()}


def test_every_node_is_an_executable_in_lib(installed: Path) -> None:
    programs = {path.name: path for path in (installed / "lib" / "perception").iterdir()}
    assert programs.keys() == {path.name for path in (ROOT / "src" / "bin").iterdir() if path.is_file()}
    for name, path in programs.items():
        assert path.stat().st_mode & 0o111 == 0o111, f"{path} is not executable"
        lines = path.read_text().splitlines()
        assert lines[0] == "#!/usr/bin/env python3"
        assert f"from perception.nodes.{name}_node import main" in lines
        assert (ROOT / "src" / "perception" / "nodes" / f"{name}_node.py").is_file()


def test_nothing_that_does_not_belong_is_installed(installed: Path) -> None:
    sources = {"perception": ROOT / "src" / "perception", "perception_training": ROOT / "training" / "perception_training"}
    (site,) = installed.glob("lib/python*/site-packages")
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == set(sources)
    strange = [path for path in installed.rglob("*") if path.name == "__pycache__" or path.suffix in (".pyc", ".db", ".onnx", ".mcap", ".bag")]
    assert strange == []
    for name, source in sources.items():
        assert {path.relative_to(source) for path in source.rglob("*.py")} == {path.relative_to(site / name) for path in (site / name).rglob("*.py")}
        assert (site / name / "py.typed").is_file()


def test_package_xml_is_valid(package_xml: ElementTree.Element) -> None:
    assert (package_xml.tag, package_xml.get("format")) == ("package", "3")
    assert package_xml.findtext("name") == "perception"
    assert package_xml.findtext("license") == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert package_xml.findtext("export/build_type") == "ament_python"
    assert package_xml.findtext("description")


def test_package_xml_maintainer_has_a_valid_email(package_xml: ElementTree.Element) -> None:
    # With an invalid one colcon says a word and goes on to build a package that ROS does not find.
    for maintainer in package_xml.findall("maintainer"):
        assert maintainer.text
        assert re.fullmatch(r"[-a-zA-Z0-9_%+.]+@[-a-zA-Z0-9.]+\.[a-zA-Z]{2,}", maintainer.get("email", ""))


def test_package_xml_names_all_depends(package_xml: ElementTree.Element) -> None:
    depends = {element.text for element in package_xml if element.tag in ("depend", "exec_depend")}
    assert depends >= REQUIRED_DEPENDS
    imported = set()
    for path in (ROOT / "src" / "perception" / "nodes").glob("*.py"):
        imported |= set(re.findall(r"^\s*(?:from|import) (\w+_msgs|\w+_srvs|\w+_interfaces|rclpy|tf2_ros)\b", path.read_text(), re.MULTILINE))
    assert imported <= depends


def test_versions_are_equal(package_xml: ElementTree.Element) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert package_xml.findtext("version") == project["version"] == perception.__version__


def test_colcon_can_read_the_metadata() -> None:
    # colcon reads what setup.py gives back with literal_eval: one value that is an object, such as a parsed version range, stops the build.
    code = "import ast, distutils.core as core; d = core.run_setup('setup.py', stop_after='config'); ast.literal_eval(repr(d.python_requires))"
    run = subprocess.run([sys.executable, "-c", f"import setuptools; {code}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
