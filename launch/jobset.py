#!/usr/bin/env python
"""Gives a gen-jax command to Kubernetes, as a JobSet: `python launch/jobset.py --image=I [OPTIONS] -- train ...`.

`launch/kubernetes.md` explains it. One pod a host, all of them in one indexed Job; the JobSet starts all of them again
where one ends.
"""

import argparse
import math
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import launcher
import yaml
from launcher import Command

from gen_jax import cli
from gen_jax.errors import ConfigError
from gen_jax.parallel.distributed import VARIABLES

TPUS = {  # kind -> the label of its nodes on GKE, axes of its topology
    "v4": ("tpu-v4-podslice", 3),
    "v5e": ("tpu-v5-lite-podslice", 2),
    "v5p": ("tpu-v5p-slice", 3),
    "v6e": ("tpu-v6e-slice", 2),
}
CHIPS = 4  # of a host, where the topology has that many
PORT = 8476
USER = 1000  # of the image
NAME = r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?"  # pods are called NAME-workers-0-123-abcde, in at most 63 characters


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="launch/jobset.py", description="Gives a gen-jax command to Kubernetes.", allow_abbrev=False)
    made.add_argument("--image", required=True, help="of launch/Dockerfile, as the cluster pulls it")
    made.add_argument("--topology", help=f"of TPUs on GKE, as v5e:16x16; one of {', '.join(TPUS)}")
    made.add_argument("--nodes", type=int, help="without a topology; default: 1")
    made.add_argument("--gpus_per_node", type=int, help="without a topology; default: none")
    made.add_argument("--name", help="default: the last part of the workdir")
    made.add_argument("--namespace")
    made.add_argument("--service_account", help="that may write to the workdir")
    made.add_argument("--node", action="append", default=[], metavar="LABEL=VALUE", help="only nodes with this label")
    made.add_argument("--claim", metavar="CLAIM:PATH", help="a volume claim, and where it is mounted")
    launcher.add_arguments(made)
    return made


def hosts(topology: str) -> tuple[int, int]:
    """Hosts and chips of each: v5e:16x16 has 64 of 4.

    Raises:
      ConfigError: there is no such topology.
    """
    kind, _, shape = topology.partition(":")
    if kind not in TPUS:
        raise ConfigError(f"--topology: expected {', '.join(TPUS)} before the colon, got {topology!r}")
    axes = TPUS[kind][1]
    if not re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * (axes - 1), shape):
        example = f"{kind}:{'x'.join(['4'] * axes)}"
        raise ConfigError(f"--topology: expected {axes} axes after the colon, as {example}, got {topology!r}")
    chips = math.prod(map(int, shape.split("x")))
    if chips > 1 and chips % CHIPS:
        raise ConfigError(f"--topology: expected 1 chip, or hosts of {CHIPS}, got {chips} chips in {topology!r}")
    return max(chips // CHIPS, 1), min(chips, CHIPS)


def manifest(options: argparse.Namespace, command: Command) -> dict[str, Any]:
    """The JobSet, as JSON types.

    Raises:
      ConfigError: an option is wrong.
    """
    name, (nodes, resource) = _name(options, command), _resource(options)
    if nodes > 1 and command.name not in launcher.TOGETHER:
        raise ConfigError(f"--nodes: expected one process for {command.name}, got {nodes}")
    metadata: dict[str, Any] = {"name": name}
    if options.namespace:
        metadata["namespace"] = options.namespace
    if options.topology and nodes > 1:  # all hosts of one slice
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    job = {
        "completionMode": "Indexed",
        "parallelism": nodes,
        "completions": nodes,
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": _pod_rules()},
        "template": {"spec": _pod(options, command, name, nodes, resource)},
    }
    workers = {"name": "workers", "replicas": 1, "template": {"spec": job}}
    spec = {"failurePolicy": _failure_policy(options.max_restarts), "replicatedJobs": [workers]}
    return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": metadata, "spec": spec}


def _pod_rules() -> list[dict[str, Any]]:
    """Preempted, or a permanent failure: both fail the Job; the JobSet distinguishes them by their index."""
    again = sorted(launcher.RESUMED + launcher.RESTARTED)
    return [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": sorted(launcher.RESUMED)}},
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": again}},
    ]


def _failure_policy(max_restarts: int) -> dict[str, Any]:
    """What `_pod_rules` leave counts as a restart."""
    rules: list[dict[str, Any]] = [
        {"name": "preempted", "action": "RestartJobSetAndIgnoreMaxRestarts"},
        {"name": "would_come_again", "action": "FailJobSet"},
    ]
    for rule in rules:
        rule["onJobFailureReasons"] = ["PodFailurePolicy"]
    rules[0]["onJobFailureMessagePatterns"] = ["FailJob rule at index [01]$"]
    return {"maxRestarts": max_restarts, "restartStrategy": "BlockingRecreate", "rules": rules}


def _pod(options: argparse.Namespace, command: Command, name: str, nodes: int, resource: dict[str, int]) -> dict:
    # Kubernetes puts variables in the place of $(NAME)
    args = [word.replace("$", "$$") for word in command.words]
    container: dict[str, Any] = {"name": "gen-jax", "image": options.image, "args": args}
    pod: dict[str, Any] = {"restartPolicy": "Never", "terminationGracePeriodSeconds": options.grace}
    if nodes > 1 and not options.topology:  # TPUs find each other
        index = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
        group = {"coordinator": f"{name}-workers-0-0.{name}:{PORT}", "num_processes": str(nodes)}
        own: list[dict[str, Any]] = [{"name": VARIABLES["process_id"], "valueFrom": index}]
        container["env"] = own + [{"name": VARIABLES[key], "value": value} for key, value in group.items()]
    if resource:
        container["resources"] = {"limits": resource}
    if labels := _labels(options):
        pod["nodeSelector"] = labels
    if options.service_account:
        pod["serviceAccountName"] = options.service_account
    if options.claim:
        claim, _, path = options.claim.partition(":")
        container["volumeMounts"] = [{"name": "runs", "mountPath": path}]
        pod["securityContext"] = {"fsGroup": USER}
        pod["volumes"] = [{"name": "runs", "persistentVolumeClaim": {"claimName": claim}}]
    return pod | {"containers": [container]}


def _name(options: argparse.Namespace, command: Command) -> str:
    given = options.name or command.workdir.rstrip("/").rpartition("/")[2].lower().replace("_", "-") or command.name
    if not re.fullmatch(NAME, given):
        raise ConfigError(f"--name: expected at most 40 of a-z, 0-9 and -, from a letter on, got {given!r}")
    return given


def _resource(options: argparse.Namespace) -> tuple[int, dict[str, int]]:
    """Pods, and what each of them asks for."""
    if options.topology:
        for name in ("nodes", "gpus_per_node"):
            if getattr(options, name) is not None:
                raise ConfigError(f"--{name}: expected none beside --topology")
        nodes, chips = hosts(options.topology)
        return nodes, {"google.com/tpu": chips}
    return options.nodes or 1, {"nvidia.com/gpu": options.gpus_per_node} if options.gpus_per_node else {}


def _labels(options: argparse.Namespace) -> dict[str, str]:
    for label in options.node:
        if not re.fullmatch(r"[^=]+=[^=]*", label):
            raise ConfigError(f"--node: expected LABEL=VALUE, got {label!r}")
    labels = dict(label.split("=") for label in options.node)
    if options.topology:
        kind, _, shape = options.topology.partition(":")
        tpu = {"gke-tpu-accelerator": TPUS[kind][0], "gke-tpu-topology": shape}
        labels |= {f"cloud.google.com/{key}": value for key, value in tpu.items()}
    return labels


def _check_workdir(options: argparse.Namespace, command: Command) -> None:
    """A pod's own disk goes with it."""
    if options.claim and not re.fullmatch(r"[^:]+:/[^:]+", options.claim):
        raise ConfigError(f"--claim: expected CLAIM:/PATH, got {options.claim!r}")
    places = ("gs://", *([os.path.join(options.claim.partition(":")[2], "")] if options.claim else []))
    if command.workdir and not command.workdir.startswith(places):
        raise ConfigError(
            f"--workdir: expected a place that outlives a pod, {' or '.join(places)}, got {command.workdir!r}"
        )


def main(argv: Sequence[str]) -> None:
    options, command = launcher.read(parser(), argv)
    for name in ("nodes", "gpus_per_node"):
        launcher.at_least(options, name, 1)
    _check_workdir(options, command)
    text = yaml.safe_dump(manifest(options, command), sort_keys=False)
    if options.dry_run:
        print(text, end="")
    else:
        print(launcher.submit(["kubectl", "apply", "--filename=-"], text))


if __name__ == "__main__":
    with cli.reported():
        main(sys.argv[1:])
