#!/bin/bash
# Runs a command with the ROS 2 distribution of the image.
set -e
source "/opt/ros/${ROS_DISTRO}/setup.bash"
exec "$@"
