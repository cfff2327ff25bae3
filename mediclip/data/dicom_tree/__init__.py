"""A folder of DICOM files as a data set: found, grouped by patient, labelled and split."""

from mediclip.data.dicom_tree.choice import TreeChoice as TreeChoice
from mediclip.data.dicom_tree.layout import is_dicom_tree as is_dicom_tree, open_dicom_tree as open_dicom_tree
from mediclip.data.dicom_tree.scan import TreeScan as TreeScan, scan_tree as scan_tree
from mediclip.data.dicom_tree.settings import TreeSettings as TreeSettings, find_settings as find_settings
