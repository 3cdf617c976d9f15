"""Procedural scenes: rooms and table tops that move, ray-cast in pure torch with the exact truth of every pixel and every trajectory.

`scene.SceneBatch` describes clips, `render.render` turns them into images with depth, ids and normals, `trajectories.trajectories` follows
pixels exactly through time.
"""
