"""Updates a network: the gradient of a loss, computed by one hook, and the optimizer that applies it."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from gen_jax.core import lora, ops
from gen_jax.core.state import Mean, Net, PyTree, combine, partition, path_name
from gen_jax.errors import ConfigError

Batch = dict[str, Any]


@flax.struct.dataclass
class Terms:
    """What one pass over a batch gives."""

    means: dict[str, Mean]  # [B] each; the one called "loss" is minimised
    stats: PyTree = dataclasses.field(default_factory=dict)  # the collections other than params, after this batch
    carry: PyTree = None  # rows of recurrent carry, [B, ...]

    def named(self, net: str) -> dict[str, Mean]:
        """The means under names that are unique among networks: without "loss", and with `net`_grad_norm."""
        return {f"{net}_{k}" if k == "grad_norm" else k: mean for k, mean in self.means.items() if k != "loss"}


# (params, stats, batch, rng) -> terms
LossFn = Callable[[PyTree, PyTree, Batch, jax.Array], Terms]


@dataclasses.dataclass(frozen=True)
class Gradients:
    """The gradient hook: d(sum(total) / sum(weight)) of the term "loss".

    Args:
      micro_batches: the batch is cut into that many, one after the other, and the sums are divided once at the end:
        the result is that of the whole batch, whatever the weights. One that does not divide the rows is a ConfigError.
      axis_name: pmap's axis; numerators, weights and gradients are summed over it before the division.
    """

    micro_batches: int = 1
    axis_name: str | None = None

    def __call__(
        self, loss_fn: LossFn, params: PyTree, stats: PyTree, batch: Batch, rng: jax.Array
    ) -> tuple[PyTree, Terms]:
        """Returns gradients like `params`, and the terms with `means` summed to `[]`."""
        grad_fn = jax.grad(self._summed, argnums=1, has_aux=True)
        if self.micro_batches == 1:
            grads, terms = grad_fn(loss_fn, params, stats, batch, rng)
        else:
            grads, terms = self._accumulated(grad_fn, loss_fn, params, stats, batch, rng)
        if self.axis_name:
            grads, means = jax.lax.psum((grads, terms.means), self.axis_name)
            terms = dataclasses.replace(terms, means=means)
        weight = terms.means["loss"].weight
        return jax.tree.map(lambda g: g / weight, grads), terms

    @staticmethod
    def _summed(loss_fn, params, stats, batch, rng):
        terms = loss_fn(params, stats, batch, rng)
        means = {name: mean.sum() for name, mean in terms.means.items()}
        return means["loss"].total, dataclasses.replace(terms, means=means)

    def _accumulated(self, grad_fn, loss_fn, params, stats, batch, rng):
        m, rows = self.micro_batches, len(jax.tree.leaves(batch)[0])
        if rows % m:
            raise ConfigError(
                f"optim.<net>.micro_batches: expected a divisor of {rows}, the rows of an update, got {m}"
            )
        # [B, ...] -> [m, B/m, ...] with the rows of each device spread over all micro-batches
        batches = jax.tree.map(lambda x: x.reshape(len(x) // m, m, *x.shape[1:]).swapaxes(0, 1), batch)

        def body(carry, xs):
            sums, stats = carry
            micro, key = xs
            grads, terms = grad_fn(loss_fn, params, stats, micro, key)
            return (jax.tree.map(jnp.add, sums, (grads, terms.means)), terms.stats), terms.carry

        shapes = jax.eval_shape(lambda: _body_shapes(grad_fn, loss_fn, params, stats, batches, rng))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        ((grads, means), stats), carry = ops.scan(body, (zeros, stats), (batches, jax.random.split(rng, m)))
        carry = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), carry)
        return grads, Terms(means, stats, carry)


def _body_shapes(grad_fn, loss_fn, params, stats, batches, rng):
    """Shapes of the gradients and means of the first micro-batch, from which the sums of the others start."""
    grads, terms = grad_fn(loss_fn, params, stats, jax.tree.map(lambda x: x[0], batches), rng)
    return grads, terms.means


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How one network is updated.

    Args:
      tx: clipping, schedule, weight decay and the rule itself; sees the trainable leaves only.
      frozen: regexes on paths (`encoder/.*`); a leaf that one of them matches in full gets no gradient and no moments.
      ema_decay: of the average after update n, counted from 0: min(ema_decay, (1 + n) / (10 + n)); 0 = none is kept.
        So it leaves the initial weights behind at once. n is saved with the average, which resumes bit for bit.
      gradients: the gradient hook.
      log_grad_norm: adds the metric "grad_norm", before clipping.
      updates: low-rank updates of some matrices: they and what `updates.train` names are trained, the rest is frozen.
      net: the name of the network, which its training terms carry as `Mean.net`.
      skip_nonfinite: an update whose terms or gradient are not finite is not made: the network stays as it is, the
        terms count for nothing, and the metric "alarm_skipped_<net>" counts it.
      skip_above: the same where the norm of the gradient is larger than this, before clipping; 0 = never.
    """

    tx: optax.GradientTransformation
    frozen: tuple[str, ...] = ()
    ema_decay: float = 0.0
    gradients: Callable = Gradients()
    log_grad_norm: bool = False
    updates: lora.Lora | None = None
    net: str = ""
    skip_nonfinite: bool = False
    skip_above: float = 0.0

    def trainable(self, params: PyTree) -> PyTree:
        """A bool for each leaf of `params`, as a network keeps them."""

        def moves(path, _):
            name = path_name(path)
            return (self.updates is None or self.updates.trains(name)) and not any(
                re.fullmatch(rule, name) for rule in self.frozen
            )

        return jax.tree_util.tree_map_with_path(moves, params)

    def init(self, variables: PyTree) -> Net:
        """A network from what `Module.init` returns."""
        stats = {name: tree for name, tree in variables.items() if name != "params"}
        params = self.updates.add(variables["params"]) if self.updates else variables["params"]
        trainable, _ = partition(params, self.trainable(params))
        ema = {"params": params, "stats": stats, "updates": jnp.zeros((), jnp.int32)} if self.ema_decay else None
        return Net(params, self.tx.init(trainable), stats, ema)

    def step(self, net: Net, loss_fn: LossFn, batch: Batch, rng: jax.Array) -> tuple[Net, Terms]:
        """One update of `net` down the gradient of `loss_fn`'s term "loss"; terms' means are `[]`."""
        trainable, frozen = partition(net.params, self.trainable(net.params))

        def loss(trainable, stats, batch, rng):
            return loss_fn(lora.merge(combine(trainable, frozen)), stats, batch, rng)

        grads, terms = self.gradients(loss, trainable, net.stats, batch, rng)
        if self.log_grad_norm:
            norm = Mean.of(optax.tree.norm(grads))
            terms = dataclasses.replace(terms, means=terms.means | {"grad_norm": norm})
        terms = _owned(terms, self.net)
        good = self.accepts(grads, terms)
        return self.update(net, grads, terms.stats, good), _counted(terms, {self.net: good})

    def accepts(self, grads: PyTree, terms: Terms) -> jax.Array | None:
        """Whether the update is made, [] bool. None if every update is made."""
        if not self.skip_nonfinite and not self.skip_above:
            return None
        norm, good = optax.tree.norm(grads), jnp.asarray(True)
        if self.skip_above:
            good = ~(norm > self.skip_above)
        if self.skip_nonfinite:
            totals = jnp.stack([norm, *(mean.total for mean in terms.means.values())])
            good = good & jnp.isfinite(totals).all()
        return good

    def update(self, net: Net, grads: PyTree, stats: PyTree, good: jax.Array | None = None) -> Net:
        """`net` after one update, or unchanged if `good` is False.

        `grads` are those of its trainable leaves, `stats` its new statistics.
        """
        updated = self._updated(net, grads, stats)
        return updated if good is None else jax.tree.map(lambda new, old: jnp.where(good, new, old), updated, net)

    def _updated(self, net: Net, grads: PyTree, stats: PyTree) -> Net:
        trainable, frozen = partition(net.params, self.trainable(net.params))
        updates, opt = self.tx.update(grads, net.opt, trainable)
        params = combine(optax.apply_updates(trainable, updates), frozen)
        return Net(params, opt, stats, self._average(net.ema, params, stats))

    def _average(self, ema: PyTree, params: PyTree, stats: PyTree) -> PyTree:
        if ema is None:
            return None
        n = ema["updates"]
        decay = jnp.minimum(self.ema_decay, (1 + n) / (10 + n))

        def lerp(old, new):
            return old + (1 - decay) * (new - old) if jnp.issubdtype(new.dtype, jnp.floating) else new

        now = {"params": params, "stats": stats}
        return jax.tree.map(lerp, {name: ema[name] for name in now}, now) | {"updates": n + 1}


def _owned(terms: Terms, net: str) -> Terms:
    return dataclasses.replace(terms, means={name: mean.of_net(net) for name, mean in terms.means.items()})


def _counted(terms: Terms, good: dict[str, jax.Array | None]) -> Terms:
    """Terms with weight 0 if the network's update is skipped, and a count of skipped updates."""
    judged = {net: made for net, made in good.items() if made is not None}
    if not judged:
        return terms
    every = jnp.stack(list(judged.values())).all()
    means = {name: mean.where(every) for name, mean in terms.means.items()}
    skipped = {f"alarm_skipped_{net}": Mean.of(1.0 - made) for net, made in judged.items()}
    return dataclasses.replace(terms, means=means | skipped)


def step_together(
    optimizers: dict[str, Optimizer], nets: dict[str, Net], loss_fn: LossFn, batch: Batch, rng: jax.Array
) -> tuple[dict[str, Net], Terms]:
    """`Optimizer.step` of several networks on the gradient of one loss. Parameters and statistics are dicts by name.

    The gradient hook is that of the first optimizer. Each network's optimizer clips and logs its own gradient.
    """
    parts = {name: partition(net.params, optimizers[name].trainable(net.params)) for name, net in nets.items()}

    def loss(trainable, stats, batch, rng):
        params = {name: lora.merge(combine(leaves, parts[name][1])) for name, leaves in trainable.items()}
        return loss_fn(params, stats, batch, rng)

    trainable, stats = {name: part[0] for name, part in parts.items()}, {name: net.stats for name, net in nets.items()}
    grads, terms = next(iter(optimizers.values())).gradients(loss, trainable, stats, batch, rng)
    logged = [name for name in nets if optimizers[name].log_grad_norm]
    norms = {f"{name}_grad_norm": Mean.of(optax.tree.norm(grads[name])).of_net(name) for name in logged}
    terms = _owned(terms, ", ".join(nets))
    good = {name: optimizers[name].accepts(grads[name], terms) for name in nets}
    updated = {
        name: optimizers[name].update(net, grads[name], terms.stats[name], good[name]) for name, net in nets.items()
    }
    return updated, _counted(dataclasses.replace(terms, means=terms.means | norms), good)


def require_optimizers(optimizers: dict[str, Optimizer], *names: str) -> None:
    """Raises ConfigError if `config.optim` has other entries than `names`."""
    if set(optimizers) != set(names):
        raise ConfigError(f"config.optim: expected the entries {', '.join(names)}, got {', '.join(sorted(optimizers))}")


def players(optimizers: dict[str, Optimizer], *names: str) -> tuple[Optimizer, ...]:
    """The optimizers of networks that play against each other. They log the norms of their gradients.

    Raises ConfigError as `require_optimizers`.
    """
    require_optimizers(optimizers, *names)
    return tuple(dataclasses.replace(optimizers[name], log_grad_norm=True) for name in names)
