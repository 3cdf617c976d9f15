"""`perception COMMAND ...`."""

from __future__ import annotations

import sys

from perception.cli.program import Program

COMMANDS = {
    "demo": "replay a recorded or rendered stream through the ROS 2 nodes, score it and write a report",
    "up": "run the nodes in one process, without the `ros2` tool",
    "onboard": "learn an object from a mesh, a posed clip or a bag",
    "replay": "run the pipelines on a bag without ROS and write predictions and a report",
    "report": "write report.html again from a run's files",
    "export": "build a network for onnxruntime, OpenVINO, TensorRT or TensorRT-RTX, and compare it with torch",
    "bench": "measure a network on every backend of this machine; `backend: auto` takes the fastest",
    "doctor": "say what this machine has, what is missing and how to mend it",
    "weights": "compare a file of weights with a network of ours, and write it as safetensors",
}

PROGRAM = Program("perception", "perception.cli", COMMANDS)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(main())
