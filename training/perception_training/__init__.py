"""Offline side of `perception`: data, training and evaluation of what the nodes run. Nothing on the robot imports it."""
