"""The tasks for many images at once: the distributions of the per-image forms for less work.

The per-image forms beside this package are the reference. Here random shapes are drawn for a whole batch,
smooth fields are computed where they are smooth (on coarse grids, by matrix products), and images are
looked up in tables of quarter pixels made once for a support set. Single draws differ from the reference's,
their distributions do not; a test compares them.
"""

from mediclip.synthesis.batched.mixture import BatchedMixture as BatchedMixture
