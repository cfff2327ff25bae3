"""The detector: a frozen CLIP, learnable prompts, adapters, and the map and score that they give."""
