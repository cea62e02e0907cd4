"""Every test starts without what Accelerate keeps for a whole process, the precision of an earlier run among it."""

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture(autouse=True)
def fresh_accelerator():
    yield
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def train_and_resume(tmp_path):
    """train_and_resume(experiment, overrides, SPEECH_DATA) -> lines of metrics and the exported model's folder.

    The program runs as a process for two steps, then for two more from where it stood.
    """

    def both(experiment, overrides, data=""):
        for steps in (2, 4):
            command = [
                sys.executable, "-m", "recipes.train", f"experiment={experiment}", f"trainer.steps={steps}",
                "trainer.log_every=1", "trainer.progress=false", *overrides,
            ]  # fmt: skip
            environment = {**os.environ, "RUNS": str(tmp_path), "SPEECH_DATA": str(data), "OMP_NUM_THREADS": "1"}
            result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
            assert result.returncode == 0 and result.stdout == "", result.stderr
            assert ("from step 2 to 4" in result.stderr) is (steps == 4), result.stderr
        lines = [json.loads(line) for line in (tmp_path / experiment / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2, 3, 4]
        return lines, tmp_path / experiment / "model"

    return both
