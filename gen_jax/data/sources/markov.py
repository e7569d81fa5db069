"""Tokens from a Markov chain whose entropy is known: what no model can beat and every sequence model should reach."""

from bisect import bisect_right
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from pydantic import Field

from gen_jax.data.datasets import TokenSet
from gen_jax.data.source import SPLITS, Info, Source, cut_end
from gen_jax.settings import Count, Positive, PositiveFloat, Whole


class Config(Source):
    """A chain of order 1."""

    source: Literal["markov"] = "markov"
    order: Literal["permuted", "windows", "streams"] = "windows"
    """Order of the windows, as for any text."""
    context: Positive = 64
    """T, the tokens that are read and predicted at once."""
    states: Whole = Field(default=8, ge=2, le=256)
    """Tokens."""
    length: Positive = 500_000
    """Tokens of all splits together."""
    chain_seed: Count = 0
    """Picks the transition matrix; `split_seed` picks the text that the chain writes."""
    concentration: PositiveFloat = 0.5
    """Concentration of the Dirichlet distribution of its rows. Below 1 a few successors are likely, above it all."""

    @property
    def drawn_bytes(self) -> int:
        return 8 * 4 * self.length  # lists of numbers


def transitions(states: int, chain_seed: int, concentration: float) -> Float[np.ndarray, "S S"]:
    """Row i: the probabilities of what follows token i."""
    matrix = np.random.default_rng(chain_seed).dirichlet(np.full(states, concentration), states)
    return (matrix + 1e-6) / (1 + 1e-6 * states)  # every state can be reached


def stationary(matrix: Float[np.ndarray, "S S"]) -> Float[np.ndarray, " S"]:
    """How often each state is visited in the long run."""
    states = len(matrix)
    equations = np.vstack([matrix.T - np.eye(states), np.ones(states)])
    return np.linalg.lstsq(equations, np.append(np.zeros(states), 1), rcond=None)[0]


def entropy_rate(matrix: Float[np.ndarray, "S S"]) -> float:
    """Nats a token: the conditional entropy of the next one, over the stationary distribution."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(matrix > 0, np.log(matrix), 0)
    return float(-(stationary(matrix) @ (matrix * logs).sum(axis=1)))


def walk(matrix: Float[np.ndarray, "S S"], length: int, rng: np.random.Generator) -> UInt8[np.ndarray, " L"]:
    """A text of the chain, from its stationary distribution on."""
    cumulative = matrix.cumsum(axis=1)
    cumulative[:, -1] = 1
    rows, noise = cumulative.tolist(), rng.random(length).tolist()
    tokens = [int(rng.choice(len(matrix), p=np.abs(stationary(matrix))))]
    for u in noise[1:]:
        tokens.append(bisect_right(rows[tokens[-1]], u))
    return np.array(tokens, np.uint8)


def load(cfg: Config, seed: int) -> TokenSet:
    """The set, cut by place; `seed` is that of the training order."""
    matrix = transitions(cfg.states, cfg.chain_seed, cfg.concentration)
    text = walk(matrix, cfg.length, np.random.default_rng([cfg.split_seed, cfg.chain_seed]))
    found = cut_end(text, cfg, ("validation", "test"))
    tokens = {split: found[split] for split in SPLITS if split in found}
    info = Info("tokens", (cfg.context + 1,), vocab_size=cfg.states, entropy=entropy_rate(matrix))
    return TokenSet(info, tokens, seed, cfg.order)
