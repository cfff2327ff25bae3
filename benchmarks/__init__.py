"""Measurements of speed and memory. None is a test: machines are shared and noisy."""
