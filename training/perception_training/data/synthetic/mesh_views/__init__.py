"""Views of textured meshes with exact depth, object coordinates, normals, masks and poses."""

from perception_training.data.synthetic.mesh_views.config import MeshViewsConfig
from perception_training.data.synthetic.mesh_views.views import MeshViews, render_mesh_views

__all__ = ["MeshViews", "MeshViewsConfig", "render_mesh_views"]
