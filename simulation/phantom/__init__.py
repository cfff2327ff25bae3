"""Seeded scans with findings and exact masks: chest, brain, breast, abdomen and retina, each in one modality.

They are made of geometry and noise alone, so they can be shipped, and stand in for data where there is none;
no figure measured on them says anything about patients.
"""

from simulation.phantom.dataset import write_phantom_set as write_phantom_set
from simulation.phantom.dicom import write_phantom_dicom as write_phantom_dicom
from simulation.phantom.draw import (
    ORGANS as ORGANS,
    Organ as Organ,
    Phantom as Phantom,
    draw_phantom as draw_phantom,
    finding_names as finding_names,
)
from simulation.phantom.scanner import Scanner as Scanner, draw_scanner as draw_scanner
