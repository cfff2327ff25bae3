"""Published detectors that train nothing, through the same door as the project's own."""
