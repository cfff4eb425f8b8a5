"""Data sets: samples and labels from files, as NumPy arrays."""
