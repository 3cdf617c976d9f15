"""ament_python packaging: the share folder, the resource marker and the node executables that `ros2 launch` looks for."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE, TRAINING = "perception", "perception_training"


def tree(folder: str) -> list[tuple[str, list[str]]]:
    """(destination, files) for every folder below `folder`, under share/perception."""
    found: dict[str, list[str]] = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            found.setdefault(f"share/{PACKAGE}/{path.parent.as_posix()}", []).append(path.as_posix())
    return list(found.items())


setup(
    name=PACKAGE,
    python_requires=">=3.10",  # in pyproject.toml it would become an object that colcon cannot read
    package_dir={"": "src", TRAINING: f"training/{TRAINING}"},
    packages=[*find_packages("src", include=[PACKAGE, f"{PACKAGE}.*"]), *find_packages("training", include=[TRAINING, f"{TRAINING}.*"])],
    package_data={PACKAGE: ["py.typed", "evaluation/templates/*", "models/weights/*", "models/cards/*"], TRAINING: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        *tree("launch"),
        *tree("config"),
        (f"lib/{PACKAGE}", sorted(path.as_posix() for path in Path("src/bin").glob("*") if path.is_file())),
    ],
    entry_points={
        "console_scripts": [
            "perception = perception.cli.main:main",
            "perception-train = perception_training.cli.main:main",
            "perception-eval = perception_training.cli.evaluate:main",
        ]
    },
)
