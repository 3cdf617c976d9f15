# Training on one or many GPUs: the pinned requirements; torch from PyPI brings CUDA.
#
#   docker build -f docker/train.Dockerfile -t perception:train .
#   docker run --rm -it --gpus all --shm-size 16g -v /data:/data -v "$PWD/runs:/work/runs" perception:train perception-train nano_pretrain --help
FROM python:3.11-slim-bookworm
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# libgl1 to libx11-6: open3d's wheel; g++: torch.compile.
RUN apt-get update && apt-get install -y --no-install-recommends g++ libegl1 libgl1 libgomp1 libx11-6 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/perception-source
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
RUN pip install --no-cache-dir --no-deps ".[training]"

ENV PERCEPTION_CACHE=/cache
VOLUME /cache
WORKDIR /work
CMD ["perception-train", "--help"]
