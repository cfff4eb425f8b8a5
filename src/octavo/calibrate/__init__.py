"""Calibration: representative samples in, the range of every activation out."""
