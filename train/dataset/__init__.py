"""Datasets: tomograms and their annotations become normalised images with labels, on disk."""
