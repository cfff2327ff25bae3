"""A folder of DICOM files as a data set: found, grouped by patient, labelled and split."""
