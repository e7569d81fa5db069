"""`gen-jax eval --workdir=D [--step=latest|best|N] [--watch] [--num_processes=N]`: runs the config's evaluators.

Results go to `D/eval/`: metrics.jsonl, samples/ and tb/, as in training; D itself is only read.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path

import jax

from gen_jax.commands import restored
from gen_jax.errors import ConfigError
from gen_jax.io import paths
from gen_jax.parallel import distributed, signals
from gen_jax.parallel.processes import is_primary
from gen_jax.parallel.watchdog import watched
from gen_jax.runs import step_dirs
from gen_jax.runs.log import Writer
from gen_jax.runs.run_dir import RunDir
from gen_jax.training import same_data
from gen_jax.training.preprocess import preprocessed
from gen_jax.training.program import Program
from gen_jax.training.report import write_report

WATCH_SECONDS = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=paths.flag, required=True, help="the run directory")
    parser.add_argument("--step", default="latest", help="latest (default), best, or a number")
    parser.add_argument("--watch", action="store_true", help="follow the checkpoints of a running job until it ends")
    same_data.add_argument(parser)
    distributed.add_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    distributed.check(args)
    trial, run_dir = distributed.is_local_trial(args), RunDir(args.workdir)
    if trial:
        run_dir.config()
        words = ["eval", f"--workdir={args.workdir}", f"--step={args.step}", *["--watch"] * args.watch]
        words += ["--accept_data"] * args.accept_data
        sys.exit(distributed.start_here(words, args.num_processes, Path(run_dir.logs)))
    with distributed.joined(args):
        _run(args, run_dir)


def _run(args: argparse.Namespace, run_dir: RunDir) -> None:
    experiment, alone = restored.experiment_of(run_dir), jax.process_count() == 1
    if not experiment.evals:
        raise ConfigError("config.evals: expected at least one evaluator; this run has none")
    if args.watch and not alone:
        raise ConfigError("--watch: expected one process")
    out, calls = RunDir(run_dir.path / "eval"), itertools.count(1)
    with (
        signals.polled() as should_stop,
        watched(0.0 if alone else experiment.hang_limit_s, lambda: None) as heartbeat,
        out.spooled(),
        Writer(out, None) as writer,
    ):

        def poll() -> None:
            heartbeat()
            if error := signals.agreed(should_stop(), next(calls)):
                raise error("stopped; the same command starts again")

        def evaluate(step: str) -> None:
            evaluation(step)
            out.upload()

        program = Program(experiment, poll=poll, tokenizer_file=run_dir.saved_tokenizer())
        same_data.check(run_dir, program.dataset, args.accept_data)
        evaluation = _Evaluation(program, run_dir, writer)
        if not args.watch:
            evaluate(args.step)
            return
        seen: set[int] = set()
        training = run_dir.follow()
        while True:
            state = training.state()
            for step in [s for s in step_dirs.available(run_dir.checkpoints) if s not in seen]:
                seen.add(step)
                if step in step_dirs.available(run_dir.checkpoints):  # the run may have deleted it since
                    evaluate(str(step))
            if state == "gone":
                print("gen-jax: the run ended without a final status: its process died", file=sys.stderr)
            if state != "running":
                return
            poll()
            time.sleep(WATCH_SECONDS)


class _Evaluation:
    """Evaluates checkpoints of one run, compiled once."""

    def __init__(self, program: Program, run_dir: RunDir, writer: Writer):
        self.program, self.run_dir, self.writer = program, run_dir, writer
        self.evaluators = None

    def __call__(self, step: str) -> None:
        found, state = restored.restore(self.program, self.run_dir, step)
        if self.evaluators is None:
            self.program = preprocessed(self.program, state, self.run_dir.path / "cache")
            self.evaluators = self.program.evaluators
        say = print if is_primary() else _say_nothing
        say(f"step {found}", flush=True)
        for name, evaluator in self.evaluators.items():
            cfg = self.program.experiment.evals[name]
            scalars = write_report(self.writer, found, cfg, evaluator(state), say)
            for tag, value in scalars.items():
                say(f"  {tag} {value:.6g}", flush=True)
        self.writer.end_step(found)


def _say_nothing(line: str, flush: bool = False) -> None:
    """In all processes but one."""
