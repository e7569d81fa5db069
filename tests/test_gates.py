"""The gates of WaveNet's and the LSTM's layers, written out."""

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.nets.recurrent import LSTM
from gen_jax.nets.wavenet import Gated


def test_a_wavenet_layer_is_tanh_times_sigmoid():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)), jnp.float32)
    layer = Gated(width=3, kernel=2, dilation=2)
    variables = layer.init(jax.random.key(0), x, None)
    _, z = layer.apply(variables, x, None)
    dense = variables["params"]["conv"]["dense"]
    before = np.concatenate([np.pad(x, ((0, 0), (2, 0), (0, 0)))[:, :5], x], axis=-1)
    signal, gate = np.split(before @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]), 2, axis=-1)
    np.testing.assert_allclose(z, np.tanh(signal) / (1 + np.exp(-gate)), rtol=1e-4, atol=1e-6)


def test_an_lstm_starts_with_an_open_forget_gate():
    layer = LSTM(width=4)
    variables = layer.init(jax.random.key(0), jnp.zeros((1, 1, 3)), layer.zeros(1))
    want = np.repeat([0.0, 1.0, 0.0, 0.0], 4)  # input, forget, candidate, output
    np.testing.assert_array_equal(variables["params"]["input"]["bias"], want)
