"""DICOM files of any modality as grey images: one frame, one policy, one sentence where it cannot be."""

from mediclip.data.dicom.header import Header as Header, read_header as read_header
