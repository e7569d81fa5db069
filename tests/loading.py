"""Loads a data set as a config names it, and reads it whole or by the batch."""

import numpy as np

from gen_jax import data


def load(seed=0, **section):
    return data.load(data.parse(section), seed)


def everything(dataset, name):
    return np.concatenate([arrays[name] for arrays in dataset.arrays.values()])


def batch(feed, step=0):
    return {name: np.asarray(value) for name, value in feed.assemble(feed.resident, feed.rows(step)).items()}
