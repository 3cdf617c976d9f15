"""Renderers with exact ground truth: views of meshes, and procedural scenes with moving objects."""
