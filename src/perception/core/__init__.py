"""Errors, typed configuration, data types and timing. Imports nothing of ours."""
