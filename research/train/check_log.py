#!/usr/bin/env python3
"""Trains the first hundred steps of the tiny presets again and compares with logs/: losses within 0.2%, the same shares of right answers
within 1 point. The logs are of PyTorch 2.11.0 on x86-64, one thread; other versions may round otherwise.

    python research/train/check_log.py            # a minute on one core
    python research/train/check_log.py --write    # writes the logs anew
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def lines(path):
    timing = ("tokens_s", "seconds")
    return [{k: v for k, v in json.loads(line).items() if k not in timing} for line in path.read_text().splitlines()]


def compare(ours, theirs):
    assert len(ours) == len(theirs), "another number of lines"
    for a, b in zip(ours, theirs):
        assert (a["step"], a["stage"], a["lr"], a["answers"]) == (b["step"], b["stage"], b["lr"], b["answers"]), (a, b)
        assert abs(a["loss"] - b["loss"]) <= 2e-3 * b["loss"], (a["step"], a["loss"], b["loss"])
        for length, tasks in b["accuracy"].items():
            for task, share in tasks.items():
                assert abs(a["accuracy"][length][task] - share) <= 0.01, (a["step"], task)


if __name__ == "__main__":
    for preset in ("tiny", "tiny-glm"):
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, HERE / "train.py", "--preset", preset, "--texts", HERE.parents[1] / "demo", "--out", out, "--cpu", "--steps", "100"]
            subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
            log = HERE / "logs" / f"{preset}.jsonl"
            if "--write" in sys.argv:
                log.write_text("".join(json.dumps(line) + "\n" for line in lines(Path(out) / "log.jsonl")))
            compare(lines(Path(out) / "log.jsonl"), lines(log))
            print(preset, "as it should be")
