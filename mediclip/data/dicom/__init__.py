"""DICOM files of any modality as grey images: one frame, one policy, one sentence where it cannot be."""

from mediclip.data.dicom.header import Header as Header, read_header as read_header
from mediclip.data.dicom.reader import (
    iter_frames as iter_frames,
    read_dicom as read_dicom,
    read_geometry as read_geometry,
)
