"""Lists of made-up names, one a line, from a chain whose entropy is known."""

import dataclasses
import functools
import string

import numpy as np

LETTERS = string.ascii_lowercase
END = len(LETTERS)  # also what stands before the first letters


@dataclasses.dataclass(frozen=True)
class NameChain:
    """A Markov chain of order 2 over letters and the end of a name.

    A name has at least two letters; then it ends with a probability from 0.15 to 0.35 after each, by the last two.
    """

    seed: int = 0

    @functools.cached_property
    def probs(self) -> np.ndarray:
        """Of the next symbol after the last two: [27, 27, 27]."""
        rng = np.random.default_rng(self.seed)
        probs = np.zeros((END + 1,) * 3)
        probs[..., :END] = rng.dirichlet(np.full(END, 0.15), (END + 1, END + 1))
        ends = rng.uniform(0.15, 0.35, (END, END))
        probs[:END, :END, :END] *= 1 - ends[..., None]
        probs[:END, :END, END] = ends
        return probs

    def draw(self, n: int, seed: int = 1) -> list[str]:
        """`n` names."""
        rng, cumulative = np.random.default_rng(seed), self.probs.cumsum(axis=-1)
        names = []
        for _ in range(n):
            name, state = "", (END, END)
            while True:
                symbol = min(int(np.searchsorted(cumulative[state], rng.random(), side="right")), END)
                if symbol == END:
                    break
                name, state = name + LETTERS[symbol], (state[1], symbol)
            names.append(name)
        return names

    def log_prob(self, name: str) -> float:
        """Of a name with its end, nats."""
        symbols = [END, END, *map(LETTERS.index, name), END]
        return float(sum(np.log(self.probs[tuple(symbols[i : i + 3])]) for i in range(len(symbols) - 2)))

    @property
    def entropy(self) -> float:
        """Nats a character, the end of a name being one: expected nats over expected characters of a name."""
        size = END + 1
        moves = np.zeros((size * size, size * size))  # from (a, b) to (b, c)
        for a in range(size):
            for b in range(size):
                moves[a * size + b, b * size : b * size + END] = self.probs[a, b, :END]
        first = np.eye(size * size)[END * size + END]
        visits = np.linalg.solve(np.eye(size * size) - moves.T, first)
        logs = np.log(self.probs, where=self.probs > 0, out=np.zeros_like(self.probs))
        nats = -(self.probs * logs).sum(axis=-1).ravel()
        return float(visits @ nats / visits.sum())
