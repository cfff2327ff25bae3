"""What owns a site's scans and model."""
