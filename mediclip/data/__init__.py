"""From folders and sample lists to square grey images, labels and masks."""
