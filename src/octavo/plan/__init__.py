"""From graph, recipe and ranges to a `Plan`: what each tensor becomes, and in words why an op stays in float.

Planning edits nothing. It runs in three steps: decide a precision for every op of every subgraph (`decide`), tie the
scales of the integer ops of a subgraph together into sites (`octavo.sites`), and write down in which form each tensor
is stored and in which form each op wants it (`forms`). `passes.apply` then puts a conversion wherever the two differ,
and only there, so QUANTIZE and DEQUANTIZE stand at real borders.
"""

from octavo.plan.decide import why_not_integer
from octavo.plan.forms import rescale_weights
from octavo.plan.planning import plan
from octavo.plan.records import FLOAT, FLOAT16, Decision, Form, Plan

__all__ = ["FLOAT", "FLOAT16", "Decision", "Form", "Plan", "plan", "rescale_weights", "why_not_integer"]
