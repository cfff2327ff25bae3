"""Trains the embedded backbone: a compact CLIP that sees nothing but generated images and captions."""
