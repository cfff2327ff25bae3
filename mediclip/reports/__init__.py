"""What a person looks at: figures, overlays and the HTML page."""
