"""Manifests for Kubernetes fit the JobSet's definition; what stands in them is what the processes need."""

import copy
import re
from typing import Any

import jobset
import jsonschema
import pytest
import yaml
from members import SMALLEST

from gen_jax import cli, errors
from gen_jax.parallel import distributed

VAE = f"--config={SMALLEST['vae']}:smoke"
TRAIN = ("--", "train", VAE, "--workdir=gs://bucket/runs/vae_digits")
TPU = ("--image=registry/gen_jax:1", "--topology=v5e:16x16")
GPU = ("--image=registry/gen_jax:1", "--nodes=2", "--gpus_per_node=8", "--namespace=team", "--service_account=writer")
CLAIM = ("--image=i", "--claim=disk:/runs", "--node=pool=a", "--", "sweep", VAE, "--workdir=/runs/d", "--search=random")


def written(capsys, *argv) -> dict[str, Any]:
    jobset.main(["--dry_run", *argv])
    return yaml.safe_load(capsys.readouterr().out)


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    (found,) = job(manifest)["template"]["spec"]["containers"]
    return found


def job(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema of Kubernetes as a JSON schema that refuses unknown keys, as the API server does."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {key: value for key, value in schema.items() if key in ("type", "enum", "required", "pattern")}
    if "properties" in schema:
        made["properties"] = {key: closed(value) for key, value in schema["properties"].items()}
        made["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            made[key] = closed(schema[key])
    return made


@pytest.fixture(scope="module")
def check(shared_data):
    """Validates a manifest against the definition of JobSets."""
    path = shared_data / "jobset_crd.yaml"
    if not path.exists():
        pytest.skip(f"no definition of JobSets at {path}")
    (version,) = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    schema = closed(version["schema"]["openAPIV3Schema"])
    metadata = {key: {"type": "string"} for key in ("name", "namespace")} | {"annotations": {"type": "object"}}
    schema["properties"]["metadata"] |= {"properties": metadata, "additionalProperties": False}  # the API server's own
    return jsonschema.Draft202012Validator(schema).validate


@pytest.mark.parametrize("argv", [(*TPU, *TRAIN), (*GPU, *TRAIN), CLAIM], ids=["tpu", "gpu", "claim"])
def test_a_manifest_is_valid(argv, check, capsys):
    check(written(capsys, *argv))


def test_a_misspelt_key_is_caught(check, capsys):
    manifest = written(capsys, *GPU, "--claim=disk:/runs", *TRAIN)
    places = [
        lambda m: m["spec"],
        lambda m: m["spec"]["failurePolicy"],
        lambda m: m["spec"]["failurePolicy"]["rules"][0],
        job,
        lambda m: job(m)["podFailurePolicy"]["rules"][0]["onExitCodes"],
        lambda m: job(m)["template"]["spec"],
        container,
    ]
    for place in places:
        for key in place(manifest):
            wrong = copy.deepcopy(manifest)
            place(wrong)[f"{key}s"] = place(wrong).pop(key)
            with pytest.raises(jsonschema.ValidationError, match=r"was unexpected|is a required property"):
                check(wrong)
    wrong = copy.deepcopy(manifest)
    job(wrong)["parallelism"] = "two"
    with pytest.raises(jsonschema.ValidationError, match="is not of type 'integer'"):
        check(wrong)


@pytest.mark.parametrize(
    ("topology", "hosts", "chips"),
    [
        ("v5e:16x16", 64, 4),
        ("v5p:8x8x16", 256, 4),
        ("v6e:2x2", 1, 4),
        ("v6e:1x1", 1, 1),
        ("v5e:2x4", 2, 4),
        ("v4:2x2x2", 2, 4),
    ],
)
def test_a_topology_is_so_many_hosts(topology, hosts, chips, capsys):
    manifest = written(capsys, "--image=i", f"--topology={topology}", *TRAIN)
    assert job(manifest)["parallelism"] == job(manifest)["completions"] == hosts
    assert container(manifest)["resources"] == {"limits": {"google.com/tpu": chips}}
    labels = job(manifest)["template"]["spec"]["nodeSelector"]
    assert labels["cloud.google.com/gke-tpu-topology"] == topology.partition(":")[2]
    assert labels["cloud.google.com/gke-tpu-accelerator"].startswith("tpu-v")


def test_gpu_processes_are_told_who_they_are(capsys, monkeypatch):
    manifest = written(capsys, *GPU, *TRAIN)
    assert container(manifest)["resources"] == {"limits": {"nvidia.com/gpu": 8}}
    variables = {entry["name"]: entry for entry in container(manifest)["env"]}
    index = variables.pop("JAX_PROCESS_ID")["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    for name, entry in variables.items():
        monkeypatch.setenv(name, entry["value"])
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    _, args, _ = cli.parse(["train", VAE, "--workdir=x"])
    distributed.check(args)
    assert (args.coordinator, args.num_processes, args.process_id) == ("vae-digits-workers-0-0.vae-digits:8476", 2, 1)
    assert not distributed.is_local_trial(args)
    for alone in (TPU, ("--image=i", "--gpus_per_node=8")):  # TPUs find each other
        assert "env" not in container(written(capsys, *alone, *TRAIN))


def outcome(manifest: dict[str, Any], code: int, disrupted: bool = False) -> str:
    """What the Job's and the JobSet's controllers do when a pod ends, as their documentation says."""
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for i, rule in enumerate(job(manifest)["podFailurePolicy"]["rules"]):
        assert rule["action"] == "FailJob"
        codes = rule.get("onExitCodes")
        if (code in codes["values"]) == (codes["operator"] == "In") if codes else disrupted:
            reason = "PodFailurePolicy"
            message = f"Container gen-jax for pod a/b failed with exit code {code} matching FailJob rule at index {i}"
            break
    for rule in manifest["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(re.search(pattern, message) for pattern in patterns):
            return rule["action"]
    return "RestartJobSet"


def test_which_ends_start_all_again(capsys):
    manifest = written(capsys, *TPU, "--max_restarts=7", "--grace=60", *TRAIN)
    ends = {code: outcome(manifest, code) for code in (1, 2, 3, 4, 5, 75, 76, 134, 137, 139, 143)}
    assert {code for code, end in ends.items() if end == "RestartJobSetAndIgnoreMaxRestarts"} == {75, 143}
    assert {code for code, end in ends.items() if end == "RestartJobSet"} == {errors.Lost.code, 134, 137}
    assert {code for code, end in ends.items() if end == "FailJobSet"} == {1, 2, 3, 4, 5, 139}
    assert outcome(manifest, 137, disrupted=True) == "RestartJobSetAndIgnoreMaxRestarts"
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 7
    assert job(manifest)["template"]["spec"]["terminationGracePeriodSeconds"] == 60


def expanded(word: str) -> str:
    """As a container's argument is read, whose environment has HOME: `$$` is `$`, `$(NAME)` a variable."""
    return re.sub(r"\$\$|\$\(HOME\)", lambda found: "$" if found[0] == "$$" else "/root", word)


def test_words_reach_the_container_as_they_are(capsys):
    odd = 'it\'s "a" $(HOME) $$(HOME) $ `id` \\ * #\n: é - {x}'
    command = ["train", VAE, "--workdir=gs://b/a", f"--config.init_from.workdir={odd}"]
    args = container(written(capsys, *TPU, "--", *command))["args"]
    assert [expanded(word) for word in args] == command
    assert expanded("$(HOME)") == "/root"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--topology=v5e:2x2", *TRAIN], "the following arguments are required: --image"),
        ([*TPU, "--topolgy=v5e:2x2", *TRAIN], "unrecognized arguments: --topolgy=v5e:2x2"),
        (["--image=i", "--topology=v9:2x2", *TRAIN], "--topology: expected v4, v5e, v5p, v6e before the colon, got"),
        (["--image=i", "--topology=v5e:4x4x4", *TRAIN], "--topology: expected 2 axes after the colon, as v5e:4x4"),
        (["--image=i", "--topology=v5p:3x1x1", *TRAIN], "--topology: expected 1 chip, or hosts of 4, got 3 chips"),
        ([*TPU, "--nodes=2", *TRAIN], "--nodes: expected none beside --topology"),
        (["--image=i", "--nodes=0", *TRAIN], "--nodes: expected at least 1, got 0"),
        (["--image=i", "--name=My_run", *TRAIN], "--name: expected at most 40 of a-z, 0-9 and -"),
        (["--image=i", "--node=gpu", *TRAIN], "--node: expected LABEL=VALUE, got 'gpu'"),
        (["--image=i", "--claim=disk", *TRAIN], "--claim: expected CLAIM:/PATH, got 'disk'"),
        (
            ["--image=i", "--", "train", VAE, "--workdir=runs/a"],
            "--workdir: expected a place that outlives a pod, gs://",
        ),
        (
            ["--image=i", "--claim=disk:/runs", "--", "train", VAE, "--workdir=/tmp/a"],
            "--workdir: expected a place that outlives a pod, gs:// or /runs/, got '/tmp/a'",
        ),
        ([*TPU, "--", "sample", "--workdir=gs://b/a"], "--nodes: expected one process for sample, got 64"),
        ([*TPU, *TRAIN, "--config.seeed=1"], "config.seeed: unknown key; did you mean seed?"),
        ([*TPU, *TRAIN], "kubectl: not found here; --dry_run prints what it would get"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(argv, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as ended, cli.reported():
        jobset.main(argv)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and says in error


def test_what_the_cluster_refuses_is_one_line(tmp_path, monkeypatch, capsys):
    kubectl = tmp_path / "kubectl"
    kubectl.write_text("#!/bin/sh\necho 'error: no such namespace' >&2\necho 'try another' >&2\nexit 1\n")
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as ended, cli.reported():
        jobset.main([*TPU, *TRAIN])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "gen-jax: error: no such namespace; try another\n"
