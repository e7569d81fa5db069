"""Pictures of what a model does: reconstructions, samples, walks through the latents."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.core import ops
from gen_jax.core.state import State
from gen_jax.evaluators import evaluator
from gen_jax.metrics.moments import Moments, most_varied
from gen_jax.models import abilities_base as abilities
from gen_jax.models import base as models
from gen_jax.parallel.processes import gather
from gen_jax.runs import grids, plots
from gen_jax.runs.grids import Labels
from gen_jax.settings import Few, Positive

Kind = Literal["reconstruction", "samples", "interpolation", "inpainting", "traversal", "scatter"]
Draw = Callable[[State], Any]  # uint8 [H, W, 1 or 3]
Trace = Callable[[State, dict, jax.Array], Any]  # what a Draw compiles, as `base.Evaluator.trace`


class Config(evaluator.SampledConfig):
    """What is drawn."""

    kinds: tuple[Kind, ...] = ()
    """Of picture; empty = all that the model and the data allow."""
    n: Positive = 64
    """Images (or points) of samples, reconstruction and inpainting."""
    rows: Few = 8
    """Of interpolation and traversal."""
    columns: Few = 11
    """Of interpolation and traversal."""
    points: Positive = 2000
    """In the scatter plot, and to find the latents that vary most."""


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """One picture a kind, drawn from the same examples and the same noise at each evaluation.

    reconstruction: rows of examples over rows of what the model makes of them.
    samples: a grid; for two-dimensional vectors a scatter plot beside as many examples.
    interpolation: an example, the decoded line between its latent and another's, the other example. The line is
      straight, between noise an arc (Shoemake 1985, slerp). Where no example gives the noise, as of a GAN, it is drawn.
    inpainting: examples over what is kept of them, the upper half, over what the model draws in the lower half.
    traversal: a row a latent, those of largest variance over the split first: it goes from -3 to 3 while the others
      stay at their mean.
    scatter: latents coloured by class; of more than two, the two of largest variance.
    In interpolation a conditional model gets the class of the left example, or each in turn; in traversal the first's.

    Raises:
      ConfigError: the model or the data cannot give a kind that `cfg.kinds` names.
    """
    drawn: dict[str, tuple[Draw, Trace]] = {}
    for kind, make in MAKERS.items():
        if cfg.kinds and kind not in cfg.kinds:
            continue
        missing = _missing(kind, context)
        evaluator.require(not (cfg.kinds and missing), f"pictures: kinds: {kind}", missing)
        if not missing:
            drawn[kind] = make(cfg, context)
    samples = not cfg.sampling or {"samples", "inpainting"} & drawn.keys()
    evaluator.require(bool(samples), "pictures: sampling", "the kind samples or inpainting")

    def evaluate(state: State) -> evaluator.Report:
        return evaluator.Report(images={kind: draw(state) for kind, (draw, _) in drawn.items()})

    def trace(state: State, batch: dict, rng: jax.Array) -> Any:
        return [one(state, batch, rng) for _, one in drawn.values()]

    return evaluator.Evaluator(evaluate, trace, draws=cfg.n)


def _missing(kind: Kind, context: evaluator.Context) -> str:
    """What `kind` needs and does not find; empty = nothing."""
    model, info = context.model, context.info
    vectors = isinstance(model, models.Encodes) and not isinstance(model, models.Quantises)
    decodes = isinstance(model, models.Decodes)
    rebuilds = isinstance(model, models.Reconstructs) or (isinstance(model, models.Encodes) and decodes)
    interpolates = isinstance(model, abilities.DecodesNoise) or (vectors and decodes)
    shows = info.kind == "image" or (kind == "samples" and info.kind == "vector" and info.shape == (2,))
    if kind != "scatter" and not shows:
        return f"images, the data are {info.kind} of shape {info.shape}"
    needs = {
        "reconstruction": (rebuilds, "reconstructs"),
        "samples": (isinstance(model, models.Samples), "samples"),
        "interpolation": (interpolates, "encodes to vectors and decodes, or decodes noise"),
        "inpainting": (isinstance(model, abilities.Inpaints), "in-paints"),
        "traversal": (vectors and decodes, "encodes to vectors and decodes"),
        "scatter": (vectors, "encodes to vectors"),
    }
    found, ability = needs[kind]
    return "" if found else f"a model that {ability}, which {type(model).__name__} does not"


def _reconstruction(cfg: Config, context: evaluator.Context) -> tuple[Draw, Trace]:
    reconstruct = evaluator.reconstructor(context.model, "pictures")

    @jax.jit
    def step(state, batch, rng):
        return (batch["image"], reconstruct(state, batch, rng)), batch["valid"]

    def draw(state):
        rows = evaluator.results(lambda batch: step(state, batch, context.rng), context.batches(cfg.split), every=1)
        labels = Labels(f"Reconstructions of {cfg.split}", rows=("data", "reconstruction"))
        return grids.pairs(*evaluator.first(rows, cfg.n), labels=labels)

    return draw, step


def _samples(cfg: Config, context: evaluator.Context) -> tuple[Draw, Trace]:
    options, sample = context.options(cfg), evaluator.drawer(context, cfg, cfg.n)
    label = options.labels(cfg.n, context.num_classes)

    def draw(state):
        made = gather(sample(state, context.rng))
        if context.info.kind == "image":
            classes = None if label is None else np.asarray(label)
            titles = options.titles(cfg.n, context.vocab, context.decode_text)
            return grids.samples(made, classes, context.info.class_names, "Samples", titles)
        batches = ((gather(batch["vector"]), gather(batch["valid"])) for batch in context.batches(cfg.split))
        return beside(evaluator.first(batches, cfg.n), made, f"Samples over data of {cfg.split}")

    return draw, lambda state, batch, rng: context.model.sample(state, rng, cfg.n, options)


def beside(real: np.ndarray, made: np.ndarray, title: str) -> np.ndarray:
    """A scatter plot of samples over real points, [N, 2] each; samples that are not finite are left out."""
    made = made[np.isfinite(made).all(1)]
    labels = np.repeat([0, 1], [len(real), len(made)])
    return plots.scatter(np.concatenate([real, made]), labels, ("real", "sampled"), title=title, equal=True)


def _inpainting(cfg: Config, context: evaluator.Context) -> tuple[Draw, Trace]:
    options, height = context.options(cfg), context.info.shape[0]
    mask = (np.arange(height) < height // 2)[None, :, None, None].astype(np.float32)
    paint = abilities.inpainter(context.model, options, lambda done, steps: context.poll())

    def draw(state):
        def step(batch):
            kept = jnp.broadcast_to(mask, (*batch["image"].shape[:3], 1))
            shown = jnp.where(kept > 0, batch["image"], grids.GAP).astype(jnp.uint8)
            return (batch["image"], shown, paint(state, context.rng, batch, kept)), batch["valid"]

        rows = evaluator.results(step, context.batches(cfg.split), every=1)
        labels = Labels(f"In-painting of {cfg.split}", rows=("data", "kept", "drawn"))
        return grids.pairs(*evaluator.first(rows, cfg.n), labels=labels)

    def trace(state, batch, rng):
        kept = jnp.broadcast_to(mask, (*batch["image"].shape[:3], 1))
        carry = context.model.inpaint_init(state, rng, batch, kept, options)
        return context.model.sample_step(state, carry, jnp.int32(0), options)

    return draw, trace


def _latents(context: evaluator.Context, encode: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(state, split, n) -> the first n of {"latent": [n, ...], "image", "label"}, what of them there is.

    And (state, batch) -> those of one batch, and which are valid.
    """

    @jax.jit
    def step(state, batch):
        shown = {name: batch[name] for name in ("image", "label") if name in batch}
        return {"latent": encode(state, batch)} | shown, batch["valid"]

    def latents(state, split, n):
        return evaluator.first(evaluator.results(lambda batch: step(state, batch), context.batches(split), every=4), n)

    return latents, step


def _decoder(context: evaluator.Context, decode: Callable[..., Any]) -> Callable[..., Any]:
    """(state, latents [N, ...], label [N] or None) -> uint8 [N, H, W, C]; a model without classes ignores them."""
    conditional = context.num_classes > 0
    return jax.jit(lambda state, z, label: decode(state, z, label) if conditional else decode(state, z))


def straight(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Points of the line from a to b, [R, D] each, at t [S]: [R, S, D]."""
    t = t[None, :, None]
    return (1 - t) * a[:, None] + t * b[:, None]


def arc(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """As `straight`, on the arc between them, so that noise keeps its length (Shoemake 1985, slerp)."""
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    angle = np.arccos(np.clip(cosine, -1, 1))[:, None, None]
    t, whole = t[None, :, None], np.maximum(np.sin(angle), 1e-6)
    bent = (np.sin((1 - t) * angle) * a[:, None] + np.sin(t * angle) * b[:, None]) / whole
    return np.where(np.sin(angle) < 1e-3, straight(a, b, t.ravel()), bent).astype(np.float32)


def _classes(context: evaluator.Context, found: dict, which: slice) -> list[str]:
    """The names of examples' classes; none of a model without classes."""
    if not context.num_classes:
        return []
    return [grids.class_name(i, context.info.class_names) for i in found["label"][which].tolist()]


def _decoded(step: Callable[..., Any], decode: Callable[..., Any]) -> Trace:
    """The decoded latents of a batch."""

    def trace(state, batch, rng):
        found, _ = step(state, batch)
        return decode(state, found["latent"], found.get("label"))

    return trace


def _ends(cfg: Config, context: evaluator.Context) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """As `_latents`: (state) -> what interpolation is between, two a row; noise is drawn where no example gives it."""
    model = context.model
    if not isinstance(model, abilities.DecodesNoise) or isinstance(model, abilities.InvertsNoise):
        noise = isinstance(model, abilities.InvertsNoise)
        latents, step = _latents(context, model.encode_noise if noise else model.encode)
        return lambda state: latents(state, cfg.split, 2 * cfg.rows), step

    def drawn() -> dict[str, Any]:
        found = {"latent": ops.normal(context.rng, (2 * cfg.rows, *model.noise_shape))}
        classes = jnp.arange(2 * cfg.rows) // 2 % max(context.num_classes, 1)
        return found | ({"label": classes} if context.num_classes else {})

    return lambda state: drawn(), lambda state, batch: (drawn(), None)


def _interpolation(cfg: Config, context: evaluator.Context) -> tuple[Draw, Trace]:
    model, noise = context.model, isinstance(context.model, abilities.DecodesNoise)
    ends, step = _ends(cfg, context)
    decode, line = _decoder(context, model.decode_noise if noise else model.decode), arc if noise else straight

    def draw(state):
        found = ends(state)
        rows = len(found["latent"]) // 2
        z = np.asarray(found["latent"])[: 2 * rows]
        t, flat = np.linspace(0, 1, cfg.columns, dtype=np.float32), z.reshape(len(z), -1)
        path = line(flat[0::2], flat[1::2], t)  # [R, S, D]
        label = found["label"][: 2 * rows : 2].repeat(cfg.columns) if "label" in found else None
        shown = gather(decode(state, path.reshape(-1, *z.shape[1:]), label))
        shown = shown.reshape(rows, cfg.columns, *shown.shape[1:])
        title, columns = f"Interpolation between {'noise' if noise else 'latents'}", [f"{part:.2g}" for part in t]
        if "image" in found:
            x = np.asarray(found["image"])[: 2 * rows]
            shown = np.concatenate([x[0::2, None], shown, x[1::2, None]], 1)  # [R, 1 + S + 1, H, W, C]
            title, columns = f"{title} of {cfg.split}", ["data", *columns, "data"]
        names = [f"class {name}" for name in _classes(context, found, slice(0, 2 * rows, 2))]
        return grids.grid(shown.reshape(-1, *shown.shape[2:]), Labels(title, names, columns), len(columns))

    return draw, _decoded(step, decode)


def _traversal(cfg: Config, context: evaluator.Context) -> tuple[Draw, Trace]:
    (latents, step), decode = _latents(context, context.model.encode), _decoder(context, context.model.decode)

    def draw(state):
        found = latents(state, cfg.split, cfg.points)
        moments = Moments().update(found["latent"])
        units = most_varied(moments, cfg.rows)
        z = np.tile(np.asarray(moments.mean, np.float32), (len(units), cfg.columns, 1))  # [R, S, D]
        z[np.arange(len(units)), :, units] = values = np.linspace(-3, 3, cfg.columns)
        label = found["label"][:1].repeat(len(units) * cfg.columns) if "label" in found else None
        labels = Labels(
            "Traversals: one latent moves, the others stay at their mean"
            + "".join(f", class {name}" for name in _classes(context, found, slice(1))),
            rows=[f"latent {unit}" for unit in units],
            columns=[f"{value:.2g}" for value in values],
        )
        return grids.grid(gather(decode(state, z.reshape(-1, z.shape[-1]), label)), labels, cfg.columns)

    return draw, _decoded(step, decode)


def _scatter(cfg: Config, context: evaluator.Context) -> tuple[Draw, Trace]:
    latents, step = _latents(context, context.model.encode)

    def draw(state):
        found = latents(state, cfg.split, cfg.points)
        z = np.asarray(found["latent"])
        dims = z.shape[-1]
        units = np.arange(dims) if dims <= 2 else most_varied(Moments().update(z), 2)
        title = f"Latents of {cfg.split}" + (f": the 2 of {dims} that vary most" if dims > 2 else "")
        plane = np.pad(z[:, units], ((0, 0), (0, 2 - len(units))))
        axes = (f"latent {units[0]}", f"latent {units[1]}" if dims > 1 else "")
        return plots.scatter(plane, found.get("label"), context.info.class_names, title=title, axes=axes)

    return draw, lambda state, batch, rng: step(state, batch)


MAKERS: dict[Kind, Callable[[Config, evaluator.Context], tuple[Draw, Trace]]] = {
    "reconstruction": _reconstruction,
    "samples": _samples,
    "interpolation": _interpolation,
    "inpainting": _inpainting,
    "traversal": _traversal,
    "scatter": _scatter,
}
