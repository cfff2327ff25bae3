"""How much a DICOM file may ask for: checked against its header before anything is decoded or inflated."""

from typing import Final

# A long multi-frame object (breast tomosynthesis) has gigabytes, of which one frame at a time is read.
MAX_FILE_BYTES: Final = 2**32
# Functional groups of an object with thousands of frames take several MiB.
MAX_HEADER_BYTES: Final = 2**24
# Values of one frame: rows x columns x samples.
MAX_FRAME_VALUES: Final = 2**26
MAX_FRAME_BYTES: Final = 2**28
MAX_FRAMES: Final = 2**16
MAX_FRAGMENTS: Final = 2**18
# A deflated file is inflated from its start for each frame, so it has a cap of its own.
MAX_INFLATED_BYTES: Final = 2**28
# A decoder fills in what a short codestream leaves out. No real image that large is compressed that much, and
# runs have 64 values in a byte at most.
MAX_VALUES_PER_BYTE: Final = 256
MAX_UNPROVEN_VALUES: Final = 2**24
