"""`perception-eval`: one module for each command, loaded when it is called."""
