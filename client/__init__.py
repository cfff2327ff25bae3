"""One site of a federation."""
