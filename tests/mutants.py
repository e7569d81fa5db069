"""Wrong code that the tests must notice: `python tests/mutants.py [--jobs=N] [word ...]`.

Each mutant is one replacement in a copy of the tree, in which the test named with it must fail. A word picks those
whose name has it. The same tests pass in an unchanged copy first: one that always fails would notice all. Exits with 1
where a mutant survives, or where its text is not found exactly once.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
OPTIM, RULES, GRADIENTS = "gen_jax/core/optim.py", "gen_jax/core/rules.py", "gen_jax/core/gradients.py"
LEAVES, PROGRAM = "gen_jax/core/leaves.py", "gen_jax/training/program.py"
CELLS, WAVENET = "gen_jax/nets/recurrent.py", "gen_jax/nets/wavenet.py"
LSTM, AR, GPT = "gen_jax/models/lstm.py", "gen_jax/models/linear_ar.py", "gen_jax/models/transformer.py"
PIXELS, PAIRS = "gen_jax/models/pixel_transformer.py", "gen_jax/models/encoder_decoder.py"
BETAS, DECAYED, INPUTS = '("b1", "b2", "eps") if', '("sgd", "adam", "adafactor")', "cfg.input_dropout, shared"

NORM = "norm > self.skip_above"
FILTERS, INTERRUPTS = "gen_jax/core/filters.py", "gen_jax/parallel/interrupts.py"

# test -> (name, file, old, new) of what it must notice
MUTANTS = {
    "nonfinite.py::test_skip_above_compares_the_norm": [
        ("large gradients are taken", GRADIENTS, NORM, f"{NORM} + jnp.inf"),
        ("skipped updates move", GRADIENTS, "jnp.where(good, new, old)", "new"),
        ("skips are not counted", GRADIENTS, "Mean.of(1.0 - made)", "Mean.of(0.0 * made)"),
        ("skipped terms count", GRADIENTS, "name: mean.where(every)", "name: mean"),
    ],
    "interrupts.py::test_a_signal_within_the_garbage_collector_is_not_lost": [
        ("ignored signals are lost", INTERRUPTS, "hook, _again", "hook, sys.__unraisablehook__"),
    ],
    "filters.py::test_top_p_is_the_smallest_set_that_reaches_p": [
        ("top-p stops one too soon", FILTERS, "keepdims=True), 1) - 1", "keepdims=True), 2) - 2"),
        ("top-p keeps all that tie", FILTERS, " & (jnp.arange(logits.shape[-1]) <= token)", ""),
    ],
    "rules.py::test_three_updates_are_those_of_the_rule_written_out": [
        ("adam ignores its betas and eps", OPTIM, "optax.adam(lr, **betas)", "optax.adam(lr)"),
        ("adamw ignores them", OPTIM, "optax.adamw(lr, **betas, **decay)", "optax.adamw(lr, **decay)"),
        ("lion ignores them", OPTIM, "optax.lion(lr, **betas, **decay)", "optax.lion(lr, **decay)"),
        ("b1 is dropped", OPTIM, BETAS, '("b2", "eps") if'),
        ("b2 is dropped", OPTIM, BETAS, '("b1", "eps") if'),
        ("eps is dropped", OPTIM, BETAS, '("b1", "b2") if'),
        ("sgd does not decay", OPTIM, DECAYED, '("adam", "adafactor")'),
        ("adam does not decay", OPTIM, DECAYED, '("sgd", "adafactor")'),
        ("adafactor does not decay", OPTIM, DECAYED, '("sgd", "adam")'),
        ("adamw does not decay", OPTIM, "optax.adamw(lr, **betas, **decay)", "optax.adam(lr, **betas)"),
        ("lion does not decay", OPTIM, "optax.lion(lr, **betas, **decay)", "optax.lion(lr, **betas)"),
        ("muon does not decay", RULES, "optax.add_decayed_weights(weight_decay)", "optax.identity()"),
        ("sgd without momentum", OPTIM, 'momentum=read["momentum"] or None', "momentum=None"),
        ("lion's b2 is adam's", OPTIM, '"b2": 0.99}', '"b2": 0.999}'),
        ("biases decay", LEAVES, '("norm", "bias", "other")', '("norm", "other")'),
        ("muon's rest has its rate", OPTIM, "share * lr(count)", "lr(count)"),
    ],
    "rules.py::test_muon_moves_a_matrix_as_optax_does_and_leaves_tables_and_heads_to_adamw": [
        ("muon takes tables", LEAVES, 'kind in ("matrix", "convolution")', 'kind in ("matrix", "embedding")'),
        ("muon's rest does not decay", OPTIM, 'weight_decay=read["adam_weight_decay"]', "weight_decay=0.0"),
    ],
    "rules.py::test_each_matrix_side_by_side_is_made_orthogonal_by_itself": [
        ("muon forgets the layers", RULES, "turned.shape[0] if leaf.stacked else 1", "1"),
        ("muon takes qkv as one", RULES, "leaf.blocks, turned.shape[-1] // leaf.blocks", "1, turned.shape[-1]"),
    ],
    "rules.py::test_muon_of_a_config_makes_each_matrix_side_by_side_orthogonal": [
        ("fused is dropped in program.py", PROGRAM, 'getattr(experiment.model, "fused", {})', "{}"),
        ("fused is dropped in optim.py", OPTIM, "cfg.weight_decay, fused)", "cfg.weight_decay, {})"),
        ("q, k and v are one matrix each", GPT, "self.heads + 2 * (self.kv_heads or self.heads)", "3"),
        ("shared keys are counted for each query", GPT, "2 * (self.kv_heads or self.heads)", "2 * self.heads"),
        ("q, k and v of pixels are one matrix each", PIXELS, "3 * self.heads}", "3}"),
        ("k and v of pairs are one matrix each", PAIRS, '".*/kv/kernel": 2 * self.heads', '".*/kv/kernel": 2'),
        ("a GRU has the gates of an LSTM", LSTM, '"gru": 3', '"gru": 4'),
    ],
    "rules.py::test_scanned_layers_move_as_unrolled_ones[adafactor]": [
        ("adafactor over all layers", RULES, "(rule(leaf).update) if leaf.stacked", "(rule(leaf).update) if 0"),
    ],
    "optim.py::test_schedules": [
        ("the first update does nothing", OPTIM, "(count + 1) / max(1, warmup)", "count / max(1, warmup)"),
        ("drops count from the warm-up", OPTIM, "round(at * total)", "round(at * (total - warmup))"),
        ("a pinned schedule is not", OPTIM, 'read.get("schedule_steps", 0)', "0"),
    ],
    "optim.py::test_the_average_follows_parameters_and_float_statistics": [
        ("the average warms up never", GRADIENTS, "ema_decay, (1 + n) / (10 + n))\n", "ema_decay, 1.0)\n"),
        ("the average does not count", GRADIENTS, '{"updates": n + 1}', '{"updates": n}'),
    ],
    "optim.py::test_the_average_reaches_its_own_decay": [
        ("the average ignores its decay", GRADIENTS, "jnp.minimum(self.ema_decay, ", "jnp.minimum(1.0, "),
    ],
    "optim.py::test_clipping_bounds_the_update_and_reports_the_norm_before_it": [
        ("clipping is off", OPTIM, "if cfg.clip else []", "if 0 else []"),
    ],
    "optim.py::test_what_a_rule_or_a_schedule_does_not_read_is_refused": [
        ("what a rule does not read is ignored", OPTIM, '(("name", RULES), ("sch', '(("sch'),
        ("what a schedule does not read is ignored", OPTIM, ', ("schedule", SCHEDULES)):', ",):"),
    ],
    "gates.py::test_a_wavenet_layer_is_tanh_times_sigmoid": [
        ("tanh gate as sigmoid", WAVENET, "jnp.tanh(signal)", "nn.sigmoid(signal)"),
    ],
    "gates.py::test_an_lstm_starts_with_an_open_forget_gate": [
        ("the forget gate starts half shut", CELLS, "jnp.array([0, 1, 0, 0], dtype)", "jnp.zeros(4, dtype)"),
        ("the forget bias at another gate", CELLS, "[0, 1, 0, 0]", "[1, 0, 0, 0]"),
    ],
    "recurrent.py::test_input_dropout_is_of_the_token_vectors_and_of_training_alone": [
        ("inputs are never dropped", LSTM, "tokens), deterministic=not train", "tokens), deterministic=True"),
        ("inputs are dropped in evaluation", LSTM, "tokens), deterministic=not train", "tokens), deterministic=False"),
        ("the loss is never one of training", LSTM, "before, train=train, rngs", "before, train=False, rngs"),
        ("inputs are dropped at the rate of outputs", LSTM, INPUTS, "cfg.dropout, shared"),
        ("inputs always have a mask a token", LSTM, INPUTS, "cfg.input_dropout"),
        ("inputs are dropped by whole vectors", LSTM, INPUTS, "cfg.input_dropout, (*shared, 2)"),
        ("inputs of all rows share a mask", LSTM, INPUTS, "cfg.input_dropout, (*shared, 0)"),
    ],
    "known_processes.py::test_ar_samples_leave_out_the_burn_in": [
        ("the burn-in is kept", AR, "values[:, self.burn_in :]", "values[:, : self.data_dim]"),
        ("the burn-in is off", AR, "cfg.data_dim, cfg.burn_in)", "cfg.data_dim, 0)"),
        ("the burn-in is one short", AR, "self.burn_in + self.data_dim)", "max(0, self.burn_in - 1) + self.data_dim)"),
    ],
}  # fmt: skip


class Mutant(NamedTuple):
    name: str
    file: str
    old: str
    new: str
    test: str  # what pytest is given


ALL = [Mutant(*row, f"tests/test_{test}") for test, rows in MUTANTS.items() for row in rows]


def places(mutant: Mutant) -> int:
    """How often its text stands in its file: once, or it is no mutant."""
    return (ROOT / mutant.file).read_text().count(mutant.old)


@contextlib.contextmanager
def copied() -> Iterator[Path]:
    """A copy of what the tests read."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("gen_jax", "tests", "experiments", "pyproject.toml"):
            (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, Path(folder) / part)
        yield Path(folder)


def run(folder: Path, *tests: str) -> subprocess.CompletedProcess:
    """pytest in a copy, without plugins, until the first failure; copies share what was compiled."""
    caches = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache/jax"), "GEN_JAX_CACHE": str(ROOT / ".cache/data")}
    own = {"PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=short", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=folder, env=caches | os.environ | own, capture_output=True, text=True)


def outcome(mutant: Mutant) -> str:
    """`killed`, `survived`, or what is wrong with the mutant."""
    if (count := places(mutant)) != 1:
        return f"{count} places, expected 1"
    with copied() as folder:
        path = folder / mutant.file
        path.write_text(path.read_text().replace(mutant.old, mutant.new))
        code = run(folder, mutant.test).returncode
    return {0: "survived", 1: "killed"}.get(code, f"pytest ended with {code}")


def unchanged(mutants: list[Mutant]) -> str:
    """What fails of their tests in a copy without a mutant; nothing should."""
    with copied() as folder:
        ended = run(folder, *dict.fromkeys(mutant.test for mutant in mutants))
    return ended.stdout + ended.stderr if ended.returncode else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("words", nargs="*")
    given = parser.parse_args()
    chosen = [m for m in ALL if not given.words or any(word in m.name for word in given.words)]
    if failed := unchanged(chosen):
        print(failed, "\nthe tests fail without a mutant")
        return 1
    killed = 0
    with ThreadPoolExecutor(given.jobs) as pool:
        for mutant, found in zip(chosen, pool.map(outcome, chosen), strict=True):
            killed += found == "killed"
            print(f"{found:10} {mutant.name} ({mutant.file})", flush=True)
    print(f"{killed} of {len(chosen)} killed")
    return int(killed < len(chosen))


if __name__ == "__main__":
    sys.exit(main())
