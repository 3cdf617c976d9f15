"""Objects that need no files: shapes with pictures on them, all drawn from a seed."""

from perception_training.data.synthetic.objects.generator import random_object

__all__ = ["random_object"]
