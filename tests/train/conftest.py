"""Training inside the test process, with threads that sleep while they wait, as the executor sets it for workers."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
