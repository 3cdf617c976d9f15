# The nodes on ROS 2 with TensorRT, for a PC or server with or without an NVIDIA GPU.
#
#   docker build -f docker/runtime.Dockerfile -t perception:runtime .
#   docker run --rm -it --gpus all --network host --shm-size 1g perception:runtime perception doctor
#
# GPUs that TensorRT-RTX does not take (H100, H200 and other data-centre cards) want TensorRT itself: --build-arg TENSORRT=tensorrt
ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}-ros-base
ARG TENSORRT="tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs"
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# libgl1 to libgomp1: open3d's wheel; g++: torch.compile on the CPU; messages that are not on PyPI; RViz stays outside.
RUN apt-get update && apt-get install -y --no-install-recommends \
        g++ libegl1 libgl1 libgomp1 libx11-6 python3-pip python3-venv \
        "ros-${ROS_DISTRO}-tf2-msgs" "ros-${ROS_DISTRO}-tf2-ros" "ros-${ROS_DISTRO}-vision-msgs" "ros-${ROS_DISTRO}-rosbag2-storage-mcap" \
    && rm -rf /var/lib/apt/lists/*

# rclpy comes from the system, everything else into an environment of its own.
ENV VIRTUAL_ENV=/opt/perception
RUN python3 -m venv --system-site-packages "${VIRTUAL_ENV}"
ENV PATH="${VIRTUAL_ENV}/bin:${PATH}"
# Unquoted: several packages in one argument.
# hadolint ignore=SC2086
RUN pip install --no-cache-dir torch==2.13.0 \
    && pip install --no-cache-dir onnx onnxscript onnxslim onnxruntime openvino \
    && pip install --no-cache-dir ${TENSORRT}

WORKDIR /opt/perception-source
COPY . .
RUN pip install --no-cache-dir .

ENV FASTDDS_DEFAULT_PROFILES_FILE=/opt/perception/share/perception/config/fastdds/shared_memory.xml \
    PERCEPTION_CACHE=/cache
VOLUME /cache
WORKDIR /work
# The entry point of the ros image sources the distribution.
CMD ["perception", "up"]
