"""`python fake_trainer.py --config.KEY=VALUE ... --workdir=DIR`: writes what `gen-jax train` would, and learns nothing.

The loss falls as 1 / step to a floor that depends on the rate and the width. FAKE_STEP: seconds a step. FAKE_END:
`code` or `code:trial`, the exit code (below 0: the signal) after the next row, of one trial or of all;
`code:trial:stuck` before it. FAKE_BATCH: `rows:trial`, what one trial was measured with, 8 in the others.
"""

import json
import math
import os
import random
import signal
import sys
import time
from pathlib import Path


def loss(rate: float, width: int, step: int, seed: str = "") -> float:
    """A seed makes the curves cross: a small rate is slow, and each point has an amplitude of its own."""
    floor = 1 + 0.3 * math.log10(rate / 1e-3) ** 2 + 0.2 * math.log2(width / 64) ** 2
    noise = 2 * (1e-3 / rate) ** 0.25 - 2 + random.Random(f"{seed} {rate} {width}").random() if seed else 0
    return floor + (2 + noise) / step


def main() -> None:
    flags = dict(flag.removeprefix("--config.").split("=", 1) for flag in sys.argv[1:])
    run = Path(flags["--workdir"])
    run.mkdir(parents=True, exist_ok=True)
    total, rate, width = int(flags["total_steps"]), float(flags.get("optim.net.lr", 1e-3)), int(flags["model.latent"])
    periods = {key: int(flags.get(key, 0)) for key in ("total_steps", "eval_every", "log_every")}
    ends = {"likelihood": {"split": "test", "when": "end"}}
    (run / "config.json").write_text(json.dumps({**periods, "evals": ends}))
    with open(run / "starts", "a") as file:
        file.write(f"{os.getpid()}\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    metrics = run / "metrics.jsonl"
    first = len(metrics.read_text().splitlines()) + 1 if metrics.exists() else 1
    code, trial, stuck = [*os.environ.get("FAKE_END", "").split(":"), "", ""][:3]
    ends = bool(code) and trial in ("", run.name)
    rows, _, other = os.environ.get("FAKE_BATCH", "").partition(":")
    tag = f"val/elbo@batch={rows if other == run.name else 8}"
    if ends and stuck:
        end(int(code))
    with open(metrics, "a") as file:
        for step in range(first, total + 1):
            print(
                json.dumps({"step": step, tag: loss(rate, width, step, flags.get("seed", ""))}),
                file=file,
                flush=True,
            )
            time.sleep(float(os.environ.get("FAKE_STEP", "0")))
            if ends:
                end(int(code))


def end(code: int) -> None:
    print(f"gen-jax: the fake ended with {code}", flush=True)
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
