"""What the transformers of `models` are made of; each part exists once. Attribute names are those of the public checkpoints."""
