"""Scoring clips: VBench, resolution-aware measures, and the statistics over them."""
