import numpy as np
import pytest
import trimesh
from PIL import Image
from tests.support.closeness import DATA, assert_close

from perception.core.errors import InputError
from perception.io import meshes
from perception.io.meshes import Mesh

TEXTURE = np.random.default_rng(5).integers(0, 255, (6, 8, 3), dtype=np.uint8)
TRIANGLE = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]], np.float32)
FACES = np.array([[0, 1, 2], [0, 2, 3]])
UV = np.array([[0, 0], [1, 0], [0, 1], [0.5, 0.25]], np.float32)


@pytest.mark.parametrize("suffix", ["obj", "glb"])
def test_texture_round_trip(tmp_path, suffix):
    path = tmp_path / f"part.{suffix}"
    meshes.save(Mesh(TRIANGLE, FACES, UV, TEXTURE), path)
    loaded = meshes.load(path)
    np.testing.assert_array_equal(loaded.texture, TEXTURE)
    order = [int(np.abs(loaded.vertices - vertex).sum(1).argmin()) for vertex in TRIANGLE]
    assert_close(loaded.vertices[order], TRIANGLE)
    assert_close(loaded.uv[order], UV)
    assert len(loaded.faces) == 2
    assert loaded.name == "part"


@pytest.mark.parametrize("suffix", ["obj", "ply", "glb"])
def test_vertex_colors_round_trip(tmp_path, suffix):
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]], np.uint8)
    meshes.save(Mesh(TRIANGLE, FACES, vertex_colors=colors), tmp_path / f"part.{suffix}")
    loaded = meshes.load(tmp_path / f"part.{suffix}")
    assert loaded.texture is None
    assert np.abs(loaded.vertex_colors.astype(int) - colors).max() <= 1
    assert_close(loaded.vertices, TRIANGLE)


def test_ply_keeps_a_texture_as_vertex_colors(tmp_path):
    meshes.save(Mesh(TRIANGLE, FACES, UV, TEXTURE), tmp_path / "part.ply")
    loaded = meshes.load(tmp_path / "part.ply")
    np.testing.assert_array_equal(loaded.vertex_colors[:3], TEXTURE[[5, 5, 0], [0, 7, 0]])


def test_ply_with_texture_file(tmp_path):
    meshes.save(Mesh(TRIANGLE, FACES, UV, TEXTURE), tmp_path / "part.obj")
    (tmp_path / "part.ply").write_text(
        "ply\nformat ascii 1.0\ncomment TextureFile part_texture.png\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
        "property float s\nproperty float t\nelement face 2\nproperty list uchar int vertex_indices\nend_header\n"
        + "".join(f"{x} {y} {z} {s} {t}\n" for (x, y, z), (s, t) in zip(TRIANGLE, UV, strict=True))
        + "3 0 1 2\n3 0 2 3\n"
    )
    loaded = meshes.load(tmp_path / "part.ply")
    np.testing.assert_array_equal(loaded.texture, TEXTURE)
    assert_close(loaded.uv, UV)
    (tmp_path / "part_texture.png").unlink()
    with pytest.raises(InputError, match=r"part_texture\.png is missing"):
        meshes.load(tmp_path / "part.ply")


def test_scale_bounds_and_parts(tmp_path):
    scene = trimesh.Scene([trimesh.creation.box((1000, 2000, 3000)), trimesh.creation.icosphere(radius=100)])
    scene.export(tmp_path / "two.glb")
    loaded = meshes.load(tmp_path / "two.glb", scale=0.001)
    assert_close(loaded.bounds, np.array([[-0.5, -1, -1.5], [0.5, 1, 1.5]], np.float32))
    assert_close(loaded.center, np.zeros(3, np.float32))
    assert len(loaded.faces) == 12 + 1280
    assert loaded.diameter_m == pytest.approx(np.sqrt(1 + 4 + 9))


def test_two_textures_become_one(tmp_path):
    """Each corner of the merged mesh must show the colour that it had in its own texture."""
    parts = []
    for color in ((250, 0, 0), (0, 0, 240)):
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(np.full((4, 4 if color[0] else 8, 3), color, np.uint8)))
        parts.append(trimesh.Trimesh(TRIANGLE, FACES, visual=trimesh.visual.TextureVisuals(uv=UV, material=material), process=False))
    trimesh.Scene(parts).export(tmp_path / "two.glb")
    loaded = meshes.load(tmp_path / "two.glb")
    height, width = loaded.texture.shape[:2]
    x = np.clip(loaded.uv[:, 0] * width, 0.5, width - 0.5).astype(int)
    y = ((1 - loaded.uv[:, 1]) * height).clip(0.5, height - 0.5).astype(int)
    first, second = loaded.texture[y, x][:4], loaded.texture[y, x][4:]
    assert {tuple(color) for color in np.vstack([first[[0, 1, 3]], second[[0, 1, 3]]]).tolist()} == {(250, 0, 0), (0, 0, 240)}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.obj", "", "empty"),
        (
            "points.ply",
            "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n0 0 0\n",
            "no faces",
        ),
        ("points.obj", "v 0 0 0\nv 1 0 0\n", "faces|cannot be read"),
        ("broken.glb", "glTF but not really", "cannot be read"),
        ("broken.ply", "no ply at all", "cannot be read|no faces"),
        ("mesh.xyz", "0 0 0", "must be one of"),
        ("lost.obj", "mtllib lost.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", r"lost\.mtl is missing"),
    ],
)
def test_unusable_files(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        meshes.load(tmp_path / name)
    assert name in str(caught.value)


def test_missing_mesh_and_damaged_texture(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        meshes.load(tmp_path / "none.obj")
    meshes.save(Mesh(TRIANGLE, FACES, UV, TEXTURE), tmp_path / "part.obj")
    texture = next(tmp_path.glob("*.png"))
    texture.write_bytes(texture.read_bytes()[:40])
    with pytest.raises(InputError, match=f"{texture.name} cannot be read"):
        meshes.load(tmp_path / "part.obj")
    texture.unlink()
    with pytest.raises(InputError, match=f"{texture.name} is missing"):
        meshes.load(tmp_path / "part.obj")


@pytest.mark.parametrize(
    "arguments",
    [
        (TRIANGLE[:0], FACES),
        (TRIANGLE, FACES[:0]),
        (TRIANGLE, FACES + 3),
        (TRIANGLE * np.nan, FACES),
        (TRIANGLE, FACES, UV[:2]),
        (TRIANGLE[:, :2], FACES),
    ],
)
def test_mesh_checks_its_arrays(arguments):
    with pytest.raises(InputError, match="mesh"):
        Mesh(*arguments)


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "ycb").is_dir(), reason="ycb is not there")
def test_real_objects_have_texture_and_metres():
    paths = sorted((DATA / "ycb").glob("*/textured.obj"))
    assert len(paths) == 6
    for path in paths:
        mesh = meshes.load(path)
        assert mesh.texture.shape == (512, 512, 3)
        assert 0.1 < mesh.diameter_m < 0.35
        assert 0 <= mesh.uv.min() < mesh.uv.max() <= 1
