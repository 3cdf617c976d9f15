"""`perception-eval COMMAND ...`: published evaluation protocols with any dense extractor."""

from __future__ import annotations

import sys

from perception.cli.program import Program

COMMANDS = {
    "correspondence": "dense correspondence between views: APE and PCDP (renders, COLMAP sets, procedural scenes)",
    "one-shot-pose": "one-shot object pose on OnePose-LowTexture: 1, 3 and 5 cm-deg",
    "bop": "one-shot object pose on YCB-Video or any BOP set: average recall of VSD, MSSD and MSPD",
    "clutter-pose": "one-shot pose of meshes rendered into clutter before real backgrounds, several methods side by side",
    "tapvid-davis": "point tracking on TAP-Vid-DAVIS, first and strided: AJ, average share within, OA",
    "pf-pascal": "semantic correspondence on PF-PASCAL: PCK at .05, .10 and .15",
    "real-matching": "matches between real frames of rooms, several extractors side by side",
    "scene-pose": "camera pose in a known scene, several extractors side by side",
    "correlation": "APE of several extractors against their scores in the tasks",
    "pca": "pictures of dense features as colours",
    "score": "make the scores of a run again from its predictions alone",
}


PROGRAM = Program("perception-eval", "perception_training.cli.evaluation", COMMANDS)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(main())
