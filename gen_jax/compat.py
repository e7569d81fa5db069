"""The private, experimental and moved names of other packages that gen_jax takes: a new version breaks them first.

No other file imports from `jax._src`, `jax.experimental`, `jax.extend` or `jax.interpreters`, or reads a private name
of another package; a test holds that. All work on jax 0.10.2, the last one for Python 3.11, and on jax 0.12.
"""

import glob
import os
from typing import Any

from jax._src import hardware_utils, xla_bridge
from jax._src.clusters import ClusterEnv
from jax._src.distributed import global_state
from jax.experimental import multihost_utils, topologies
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr

__all__ = [
    "apply",
    "cluster_processes",
    "global_state",
    "inner_jaxprs",
    "leave_absent_tpu",
    "live_jaxpr",
    "multihost_utils",
    "reset_cache",
    "scan_parts",
    "topologies",
    "trial_id",
]


Closed: Any = vars(core)["ClosedJaxpr"]  # jax 0.12 has it without exporting it
# what a machine with a TPU sets; jax and libtpu set others on every machine
TPU_VARIABLES = ("TPU_NAME", "TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES", "TPU_ACCELERATOR_TYPE")


def apply(equation: Any, inputs: list) -> list:
    """What an equation of a jaxpr makes of its inputs."""
    params = equation.primitive.get_bind_params(equation.params)
    with equation.ctx.manager:
        results = equation.primitive.bind(*inputs, **params)
    return list(results) if equation.primitive.multiple_results else [results]


def cluster_processes() -> int:
    """Processes of the job that jax finds itself in; 0 outside the clusters that it knows."""
    known = (env for env in ClusterEnv._cluster_types if not env.opt_in_only_method)
    found = next((env for env in known if env.is_env_present()), None)
    return 0 if found is None else found.get_process_count()


def inner_jaxprs(equation: Any) -> list[Any]:
    """What an equation of a jaxpr calls, closed, in the order of its parameters: bodies, branches, nested functions.

    From jax 0.11 on a closed jaxpr is a jaxpr, too.
    """
    values = [v for value in equation.params.values() for v in (value if isinstance(value, (tuple, list)) else [value])]
    found = [value for value in values if isinstance(value, (Closed, core.Jaxpr))]
    return [value if isinstance(value, Closed) else Closed(value, ()) for value in found]


def leave_absent_tpu() -> None:
    """Call it before a backend starts: removes the TPU backend if libtpu is installed without a TPU. It prints errors.

    Signs of a TPU: a chip on the PCI bus, a device file, one of TPU_VARIABLES, or a JAX_PLATFORMS that names it.
    """
    named = "tpu" in os.environ.get("JAX_PLATFORMS", "") or "JAX_FORCE_TPU_INIT" in os.environ
    in_environment = any(name in os.environ for name in TPU_VARIABLES)
    files = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    if not (named or in_environment or files or hardware_utils.num_available_tpu_chips_and_device_id()[0]):
        xla_bridge._backend_factories.pop("tpu", None)


def live_jaxpr(jaxpr: Any) -> Any:
    """A jaxpr without the equations that none of its results depends on."""
    return dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def scan_parts(equation: Any) -> tuple[int, int]:
    """How many of a scan's inputs are the same for all turns, and how many its carry; the others are cut into rows."""
    if "num_carry" in equation.params:
        return equation.params["num_consts"], equation.params["num_carry"]
    consts, carry, _ = equation.params["ft_in"].unpack()  # from jax 0.11 on
    return len(consts), len(carry)


def trial_id(trial: Any) -> int:
    """The number of an Optuna trial in its storage, with which it can be continued."""
    return trial._trial_id
