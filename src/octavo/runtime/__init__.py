"""Running models on LiteRT."""

from octavo.runtime.evaluate import Evaluation, evaluate, top1
from octavo.runtime.latency import Latency, measure
from octavo.runtime.runner import Runner
from octavo.runtime.session import Port, Session

__all__ = ["Evaluation", "Latency", "Port", "Runner", "Session", "evaluate", "measure", "top1"]
