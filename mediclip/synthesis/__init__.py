"""Anomalies made on normal images, each with its mask."""

from mediclip.synthesis.mixture import (
    TASKS as TASKS,
    Mixture as Mixture,
    Synthetic as Synthetic,
    Task as Task,
)
