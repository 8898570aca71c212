"""Checks of the exercises in notebooks/exercises: each says in words what is wrong with an answer.

asking       how a check asks an answer, and says what it finds
projection   1, project a direction out
hook_points  2, hook points and roles
components   3, principal components of differences by hand
reading      4, ten components read blind
attribution  5, latents by what they do to an outcome
training     6, CAFT in a training loop of one's own
interval     7, a fair comparison and its interval
probe        8, is it gone?
"""

from __future__ import annotations

from caft_lens.course.attribution import check_attribution
from caft_lens.course.components import check_components
from caft_lens.course.hook_points import check_hook_points
from caft_lens.course.interval import check_interval
from caft_lens.course.probe import check_probe
from caft_lens.course.projection import check_projection
from caft_lens.course.reading import check_reading
from caft_lens.course.training import check_training_step

__all__ = [
    "check_attribution",
    "check_components",
    "check_hook_points",
    "check_interval",
    "check_probe",
    "check_projection",
    "check_reading",
    "check_training_step",
]
