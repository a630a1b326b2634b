"""Schedules of the learning rate: the factor on it at each step."""

from __future__ import annotations

import math
from collections.abc import Sequence

SCHEDULES = ("cosine", "linear", "step", "constant")
"""The names of schedules, which `learning_rate_factor` describes."""


def learning_rate_factor(
    schedule: str,
    step: int,
    steps: int,
    *,
    warmup_steps: int = 0,
    milestones: Sequence[int] = (),
    decay: float = 0.1,
) -> float:
    """Return the factor on the learning rate for the next step, from 0 to 1.

    During the warm-up it is the number of the step, from 1, divided by that of the warm-up's last.
    Then it depends on the schedule:

        cosine    falls to 0 at the end of the last step, along half a period of a cosine
                  (Loshchilov and Hutter: SGDR, ICLR 2017)
        linear    falls to 0 at the end of the last step, along a line
        step      is multiplied by *decay* at each of *milestones*
        constant  stays at 1

    Args:
        schedule: One of `SCHEDULES`.
        step: Number of complete steps, at least 0.
        steps: Number of steps of the run.
        warmup_steps: Number of steps of the warm-up (default: 0, none).
        milestones: The numbers of complete steps from which on the schedule `step` lowers the
            rate.
        decay: The factor of each milestone (default: 0.1).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "step":
        return decay ** sum(step >= milestone for milestone in milestones)
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return 1 - progress if schedule == "linear" else 0.5 + 0.5 * math.cos(math.pi * progress)
