# The nodes on a Jetson with JetPack 6 (Orin): CUDA and TensorRT come with the base image, torch from NVIDIA's own index.
#
#   docker build -f docker/jetson.Dockerfile -t perception:jetson .          (on the Jetson)
#   docker run --rm -it --runtime nvidia --network host --shm-size 1g perception:jetson perception doctor
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0
ARG ROS_DISTRO=humble
ARG TORCH_INDEX=https://pypi.jetson-ai-lab.io/jp6/cu126
ARG ROS_KEY=https://raw.githubusercontent.com/ros/rosdistro/master/ros.key
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl gnupg \
    && curl -fsSL "${ROS_KEY}" | gpg --dearmor -o /usr/share/keyrings/ros-archive-keyring.gpg \
    && echo "deb [arch=arm64 signed-by=/usr/share/keyrings/ros-archive-keyring.gpg] http://packages.ros.org/ros2/ubuntu jammy main" \
        > /etc/apt/sources.list.d/ros2.list \
    && apt-get update && apt-get install -y --no-install-recommends \
        g++ libegl1 libgl1 libgomp1 libx11-6 python3-libnvinfer python3-pip python3-venv \
        "ros-${ROS_DISTRO}-ros-base" "ros-${ROS_DISTRO}-tf2-msgs" "ros-${ROS_DISTRO}-vision-msgs" "ros-${ROS_DISTRO}-rosbag2-storage-mcap" \
    && rm -rf /var/lib/apt/lists/*

# TensorRT and rclpy come from the system. There is no open3d-cpu for ARM: open3d takes its place, so that dependencies are named here.
ENV VIRTUAL_ENV=/opt/perception
RUN python3 -m venv --system-site-packages "${VIRTUAL_ENV}"
ENV PATH="${VIRTUAL_ENV}/bin:${PATH}"
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch>=2.6" \
    && pip install --no-cache-dir onnx onnxscript onnxslim onnxruntime openvino \
    && pip install --no-cache-dir array-api-compat jinja2 libusb-package matplotlib mcap "numpy>=2" open3d opencv-python-headless pillow poselib \
        pyyaml rich "rosbags>=0.11" safetensors scipy "transformers>=5" trimesh tyro

WORKDIR /opt/perception-source
COPY . .
RUN pip install --no-cache-dir --no-deps .

ENV ROS_DISTRO=${ROS_DISTRO} \
    FASTDDS_DEFAULT_PROFILES_FILE=/opt/perception/share/perception/config/fastdds/shared_memory.xml \
    PERCEPTION_CACHE=/cache
VOLUME /cache
WORKDIR /work
COPY docker/ros_entrypoint.sh /ros_entrypoint.sh
ENTRYPOINT ["/ros_entrypoint.sh"]
CMD ["perception", "up"]
