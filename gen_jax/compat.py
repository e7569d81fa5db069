"""The private, experimental and moved names of other packages that gen_jax takes: a new version breaks them first.

No other file imports from `jax._src`, `jax.experimental`, `jax.extend` or `jax.interpreters`, or reads a private name
of another package; a test holds that. All work on jax 0.10.2, the last one for Python 3.11, and on jax 0.12.
"""

from typing import Any

from jax._src.clusters import ClusterEnv
from jax._src.distributed import global_state
from jax.experimental import multihost_utils, topologies
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr

__all__ = [
    "cluster_processes",
    "global_state",
    "inner_jaxprs",
    "live_jaxpr",
    "multihost_utils",
    "reset_cache",
    "topologies",
    "trial_id",
]


def cluster_processes() -> int:
    """Processes of the job that jax finds itself in; 0 outside the clusters that it knows."""
    known = (env for env in ClusterEnv._cluster_types if not env.opt_in_only_method)
    found = next((env for env in known if env.is_env_present()), None)
    return 0 if found is None else found.get_process_count()


def inner_jaxprs(equation: Any) -> list[Any]:
    """What an equation of a jaxpr calls, in the order of its parameters: bodies of loops, branches, nested functions.

    From jax 0.11 on a closed jaxpr is a jaxpr, too.
    """
    values = [v for value in equation.params.values() for v in (value if isinstance(value, (tuple, list)) else [value])]
    found = [value for value in values if isinstance(value, (core.ClosedJaxpr, core.Jaxpr))]
    return [value.jaxpr if isinstance(value, core.ClosedJaxpr) else value for value in found]


def live_jaxpr(jaxpr: Any) -> Any:
    """A jaxpr without the equations that none of its results depends on."""
    return dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def trial_id(trial: Any) -> int:
    """The number of an Optuna trial in its storage, with which it can be continued."""
    return trial._trial_id
