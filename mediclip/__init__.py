"""Few-shot anomaly detection in medical images, on one machine: no network, no federation."""

__version__ = "0.1.0"
