"""Every test starts without what Accelerate keeps for a whole process, the precision of an earlier run among it."""

import sys

import pytest


@pytest.fixture(autouse=True)
def fresh_accelerator():
    yield
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
