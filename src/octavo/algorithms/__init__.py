"""What makes the same file format more accurate: better ranges, better rounding, better biases.

Each file is one algorithm over plain arrays, with its source; `refine` lets them loose on a plan.
"""
