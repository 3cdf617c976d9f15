"""The training engine: knows steps, gradients and files, and nothing of methods."""
