"""Training data: one typed sample, readers of published data sets, renderers with exact ground truth, and mixtures of them."""
