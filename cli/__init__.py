"""The ``grace`` command: one module a noun."""

import os

# Before torch is imported: OpenMP reads it once. Threads that spin while they wait for each other lose most of their time on a
# machine that is busy with something else, be it the browser that shows the explorer (docs/performance.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
