"""Anomalies made on normal images, each with its mask."""
