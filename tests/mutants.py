"""Wrong code that the tests must notice: `python tests/mutants.py [word ...]`.

Each mutant is one replacement in a copy of the tree, against which the tests named with it are run; a word picks those
whose name has it. Exits with 1 where a mutant survives, or where its text is not found exactly once.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
OPTIM, RULES, GRADIENTS = "gen_jax/optim.py", "gen_jax/rules.py", "gen_jax/gradients.py"
LEAVES, LSTM, WAVENET = "gen_jax/leaves.py", "gen_jax/nets/recurrent.py", "gen_jax/nets/wavenet.py"
WRITTEN, CONTENT, GATES = "tests/test_rules.py", "tests/test_optim.py", "tests/test_gates.py"

# name, file, old, new, what pytest is given
MUTANTS = [
    ("adam ignores its betas and eps", OPTIM, "optax.adam(lr, **betas)", "optax.adam(lr)", WRITTEN),
    ("adamw ignores them", OPTIM, "optax.adamw(lr, **betas, **decay)", "optax.adamw(lr, **decay)", WRITTEN),
    ("b1 is dropped", OPTIM, '("b1", "b2", "eps") if', '("b2", "eps") if', WRITTEN),
    ("b2 is dropped", OPTIM, '("b1", "b2", "eps") if', '("b1", "eps") if', WRITTEN),
    ("eps is dropped", OPTIM, '("b1", "b2", "eps") if', '("b1", "b2") if', WRITTEN),
    ("sgd does not decay", OPTIM, '("sgd", "adam", "adafactor")', '("adam", "adafactor")', WRITTEN),
    ("adam does not decay", OPTIM, '("sgd", "adam", "adafactor")', '("sgd", "adafactor")', WRITTEN),
    ("adafactor does not decay", OPTIM, '("sgd", "adam", "adafactor")', '("sgd", "adam")', WRITTEN),
    ("sgd without momentum", OPTIM, 'momentum=read["momentum"] or None', "momentum=None", WRITTEN),
    ("lion's b2 is adam's", OPTIM, '"b2": 0.99}', '"b2": 0.999}', WRITTEN),
    ("biases decay", LEAVES, '("norm", "bias", "other")', '("norm", "other")', WRITTEN),
    ("muon takes tables", LEAVES, 'kind in ("matrix", "convolution")', 'kind in ("matrix", "embedding")', WRITTEN),
    ("muon forgets the layers", RULES, "turned.shape[0] if leaf.stacked else 1", "1", WRITTEN),
    ("muon takes qkv as one", RULES, "leaf.blocks, turned.shape[-1] // leaf.blocks", "1, turned.shape[-1]", WRITTEN),
    ("muon's rest has its rate", OPTIM, "share * lr(count)", "lr(count)", WRITTEN),
    ("adafactor over all layers", RULES, "(rule(leaf).update) if leaf.stacked", "(rule(leaf).update) if 0", WRITTEN),
    ("the first update does nothing", OPTIM, "(count + 1) / max(1, warmup)", "count / max(1, warmup)", CONTENT),
    ("drops count from the warm-up", OPTIM, "round(at * total)", "round(at * (total - warmup))", CONTENT),
    ("a pinned schedule is not", OPTIM, 'read.get("schedule_steps", 0)', "0", CONTENT),
    ("the average warms up never", GRADIENTS, "ema_decay, (1 + n) / (10 + n))\n", "ema_decay, 1.0)\n", CONTENT),
    ("the average does not count", GRADIENTS, '{"updates": n + 1}', '{"updates": n}', CONTENT),
    ("the average ignores its decay", GRADIENTS, "jnp.minimum(self.ema_decay, ", "jnp.minimum(1.0, ", CONTENT),
    ("clipping is off", OPTIM, "if cfg.clip else []", "if 0 else []", CONTENT),
    ("tanh gate as sigmoid", WAVENET, "jnp.tanh(signal)", "nn.sigmoid(signal)", GATES),
    ("the forget gate starts half shut", LSTM, ".at[self.width : 2 * self.width].set(1)", "", GATES),
    ("the forget bias at another gate", LSTM, ".at[self.width : 2 * self.width]", ".at[: self.width]", GATES),
]  # fmt: skip


def killed(file: str, old: str, new: str, tests: str) -> bool:
    """Whether the tests fail on a copy of the tree with the replacement."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("gen_jax", "tests", "experiments", "pyproject.toml"):
            (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, Path(folder) / part)
        path = Path(folder) / file
        path.write_text(path.read_text().replace(old, new))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", tests]
        env = os.environ | {"PYTHONPATH": folder, "JAX_PLATFORMS": "cpu"}
        ended = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    if ended.returncode not in (0, 1):
        sys.exit(f"{tests}: pytest ended with {ended.returncode}\n{ended.stdout}{ended.stderr}")
    return ended.returncode == 1


def main(words: list[str]) -> int:
    bad = 0
    for name, file, old, new, tests in MUTANTS:
        if words and not any(word in name for word in words):
            continue
        count = (ROOT / file).read_text().count(old)
        found = (
            f"{count} places, expected 1" if count != 1 else "killed" if killed(file, old, new, tests) else "survived"
        )
        bad += found != "killed"
        print(f"{found:10} {name} ({file})", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
