"""How tensors travel between server and sites: codecs, parcels and error feedback, in NumPy alone."""
