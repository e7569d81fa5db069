"""`gen-jax eval --workdir=D [--step=latest|best|N] [--watch] [--num_processes=N]`: runs the config's evaluators.

`--config.evals.NAME.type=TYPE` adds an evaluator, `--config.evals.NAME.key=value` changes one.
Results go to `D/eval/`: metrics.jsonl, samples/ and events for TensorBoard, as in training; D itself is only read. Of a
run with `num_seeds`, each seed is evaluated in its folder, and means and deviations go to `D/eval/`.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path

import jax

from gen_jax.errors import ConfigError
from gen_jax.io import paths
from gen_jax.parallel import distributed, signals
from gen_jax.parallel.processes import is_primary
from gen_jax.parallel.watchdog import watched
from gen_jax.runs import step_dirs
from gen_jax.runs.log import Writer
from gen_jax.runs.plots import STD
from gen_jax.runs.run_dir import RunDir
from gen_jax.training import same_data, seed_report
from gen_jax.training.report import write_report
from gen_jax.training.trained import TrainedRun, experiment_of, runs

WATCH_SECONDS = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=paths.flag, required=True, help="the run directory")
    parser.add_argument("--step", default="latest", help="latest (default), best, or a number")
    parser.add_argument("--watch", action="store_true", help="follow the checkpoints of a running job until it ends")
    same_data.add_argument(parser)
    parser.set_defaults(config=None)  # it takes flags, of `config.evals`
    distributed.add_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    distributed.check(args)
    if args.watch and args.step != "latest":
        raise ConfigError(f"--step: expected none beside --watch, which evaluates each checkpoint; got {args.step}")
    trial, run_dir = distributed.is_local_trial(args), RunDir(args.workdir)
    if trial:
        run_dir.config()
        words = ["eval", f"--workdir={args.workdir}", f"--step={args.step}", *["--watch"] * args.watch]
        words += ["--accept_data"] * args.accept_data + overrides
        sys.exit(distributed.start_here(words, args.num_processes, Path(run_dir.logs)))
    with distributed.joined(args):
        each = runs(args.workdir)
        if len(each) > 1 and args.watch:
            raise ConfigError(
                f"--watch: expected one run, {run_dir.path} holds {len(each)} seeds, of which one evaluation would "
                f"hold up the others; --workdir={paths.shortest(each[0].path)} follows one"
            )
        for one in each:
            _run(args, one, overrides)
        if len(each) > 1:
            _write_common(run_dir, each)


def _write_common(run_dir: RunDir, each: list[RunDir]) -> None:
    """What the last evaluations of several seeds have in common, into `eval/` of their folder."""
    rows = [RunDir(one.path / "eval").rows()[-1] for one in each]
    step, found = max(row["step"] for row in rows), seed_report.merged(rows)
    with Writer(RunDir(run_dir.path / "eval"), None) as writer:
        writer.write_scalars(step, found)
        writer.end_step(step)
    if is_primary():
        print(f"{len(rows)} seeds")
        for tag, value in found.items():
            if (deviation := found.get(f"{STD}{tag}")) is not None:
                print(f"  {tag} {value:.6g} +- {deviation:.3g}")


def _run(args: argparse.Namespace, run_dir: RunDir, overrides: list[str]) -> None:
    experiment, alone = experiment_of(run_dir, overrides), jax.process_count() == 1
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
            trained.go_to(step)
            _evaluate(trained, writer)
            out.upload()

        trained = TrainedRun(run_dir.path, accept_data=args.accept_data, poll=poll, overrides=overrides)
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


def _evaluate(trained: TrainedRun, writer: Writer) -> None:
    """Runs all evaluators on the run's checkpoint; writes and prints what they find."""
    say = print if is_primary() else _say_nothing
    say(f"step {trained.step}", flush=True)
    for _, cfg, report in trained.reports():
        for tag, value in write_report(writer, trained.step, cfg, report, say).items():
            say(f"  {tag} {value:.6g}", flush=True)
    writer.end_step(trained.step)


def _say_nothing(line: str, flush: bool = False) -> None:
    """In all processes but one."""
