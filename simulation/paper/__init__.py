"""The paper's whole benchmark: sets, shots, seeds, recipes and methods, cell by cell, and its tables."""
