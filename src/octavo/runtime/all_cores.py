"""A session that uses all cores, where that changes no bit of what it gives.

XNNPACK's threads share out the elements of a result, so each element is summed up in the same order however many they
are. LiteRT's own kernels may also share out a sum (Eigen's matrix products along their inner dimension do), and then
the last bits depend on the number of threads: a model of which XNNPACK leaves an op to them runs on one thread.
"""

from __future__ import annotations

from octavo.parallel import spare_cores
from octavo.runtime.latency import delegation
from octavo.runtime.session import ModelLike, Session

_MOST = 8  # threads: one sample is too little work for more


def on_all_cores(model: ModelLike, signature: str | None = None, name: str | None = None) -> Session:
    """A `Session` on XNNPACK, with as many threads as this process has to itself, or with one.

    Args:
      model, signature, name: as `Session`.

    Raises:
      ModelFileError, RunError: as `Session`.
    """
    cores = min(spare_cores(), _MOST)
    if cores > 1:
        session = Session(model, threads=cores, signature=signature, name=name)
        found = delegation(session)
        if found is not None and found.ops and found.delegated == found.ops:
            return session
        del session
    return Session(model, signature=signature, name=name)
