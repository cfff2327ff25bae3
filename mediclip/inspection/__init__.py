"""What is in a data folder: counted, looked at and judged, without naming anybody."""
