"""Clips, weights and stand-ins of VBench's models, whose imaging quality is scored on tiles too."""

from tests.vbench.conftest import moving_clips, standins, weights, write_clip

__all__ = ["moving_clips", "standins", "weights", "write_clip"]
