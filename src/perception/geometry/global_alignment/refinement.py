"""Cameras and pairs that fit each other better, in rounds that never raise the loss.

The objective is a sum of weighted distances. As it shrinks with the scene, what is minimised is its quotient with the geometric mean of the pairs'
scales, log(loss) - mean(log scale), which no change of unit touches; with preset poses the loss itself. Each round replaces the distances by
quadratics that touch them from above at the present scene (iteratively reweighted least squares) and the logarithm of the loss by its tangent. Few
pairs are moved all at once (`joint_rounds`), more in turns with the cameras (`alternating_rounds`).
"""

from __future__ import annotations

from perception.geometry.global_alignment.alternating_rounds import AlternatingRounds
from perception.geometry.global_alignment.joint_rounds import JointRounds
from perception.geometry.global_alignment.problem import Problem
from perception.geometry.global_alignment.scene import Scene

MOST_JOINT_PAIRS = 200
"""Up to as many pairs everything is moved at once, in a dense system of 7 unknowns for each."""
_EXACT = 1e-7
"""Mean distance, as a share of the mean depth, below which a scene counts as exact: float32 input holds no more."""


def refine(problem: Problem, scene: Scene, *, max_rounds: int, tolerance: float, softness: float = 1.0) -> tuple[Scene, int]:
    """The scene after rounds that each lower the loss, and their number; ends when rounds lower it by less than the share `tolerance`.

    `scene` is in the unit of `problem.unit_of`. softness: share of the mean distance below which distances are levelled in the first round; little
    for scenes that are nearly refined.
    """
    rounds = JointRounds(problem, softness) if problem.num_pairs <= MOST_JOINT_PAIRS else AlternatingRounds(problem)
    fit = problem.fit(scene)
    floor = _EXACT * float(problem.weights.sum() * scene.depth.mean())
    num_idle = 0
    for number in range(max_rounds):
        if num_idle == rounds.num_idle_to_end or float(fit.loss) <= floor:
            return scene, number
        found = rounds.improved(scene, fit)
        if found is None:
            return scene, number
        num_idle = num_idle + 1 if float(fit.loss - found[1].loss) < tolerance * float(fit.loss) else 0
        scene, fit = found
    return scene, max_rounds
