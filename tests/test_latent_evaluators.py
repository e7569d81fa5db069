"""Active units, codebooks, errors of reconstruction, modes."""

import math

import numpy as np
import pytest
from evaluating import STATE, Codes, Linear, Off, Ring, Weighted, build, small_images

from gen_jax.core.info import Mixture
from gen_jax.data.sources.gaussians import ring
from gen_jax.errors import ConfigError
from gen_jax.runs import metric_tags


@pytest.mark.parametrize(("scale", "active"), [((1.0, 1e-6, 0.5), 2), ((0.0, 0.0, 1e-6), 0)])
def test_active_units_of_a_known_encoder(scale, active):
    arrays = {"image": small_images()}
    found = build({"type": "active_units"}, Linear(scale), arrays, kind="image", shape=(1, 3, 1))(STATE)
    assert found.scalars == {"active_units": active, "active_units_share": active / 3}
    assert bool(found.warnings) == (active == 0)


def test_active_units_threshold_is_on_the_variance():
    x = small_images()
    variance = x.reshape(-1, 3).astype(np.float64).var(0)
    between = float(np.sort(variance)[:2].mean())
    section = {"type": "active_units", "threshold": between}
    found = build(section, Linear(), {"image": x}, kind="image", shape=(1, 3, 1))(STATE)
    assert found.scalars["active_units"] == 2


def test_codebook_of_known_use_ignores_padding():
    codes = np.array([[[0, 1]], [[0, 2]], [[0, 0]], [[1, 2]], [[7, 7]]])
    found = build({"type": "codebook"}, Codes(), {"codes": codes}, 4)(STATE).scalars
    p = np.array([4, 2, 2, 2]) / 10
    assert found["codebook_perplexity"] == pytest.approx(math.exp(-(p * np.log(p)).sum()))
    assert found["codebook_used"] == 0.5
    assert build({"type": "codebook"}, Codes(64), {"codes": codes}, 4)(STATE).warnings
    for kind, model in (("codebook", Linear()), ("active_units", Codes())):
        with pytest.raises(ConfigError, match=f"{kind}: expected a model that encodes"):
            build({"type": kind}, model, {})


def test_psnr_is_the_mean_over_examples():
    arrays, info = {"image": np.zeros((5, 2, 2, 1), np.uint8)}, dict(kind="image", shape=(2, 2, 1))
    found = build({"type": "psnr"}, Off(), arrays, **info)(STATE).scalars["psnr"]
    one, five = 20 * math.log10(255), 20 * math.log10(255 / 5)
    assert found == pytest.approx((3 * one + 2 * five) / 5, abs=1e-4)
    assert build({"type": "psnr"}, Linear(), {"image": small_images()}, kind="image")(STATE).scalars["psnr"] == 100
    with pytest.raises(ConfigError, match="reconstructs"):
        build({"type": "psnr"}, Weighted(), arrays, **info)
    with pytest.raises(ConfigError, match="images"):
        build({"type": "psnr"}, Off(), arrays)


def test_modes_that_the_samples_reach(figures):
    centres = ring(8, 2.0)
    arrays, mixture = {"vector": np.float32(centres).repeat(5, 0)}, Mixture(tuple(map(tuple, centres)), 0.02)
    found = build({"type": "modes", "n": 400}, Ring(6), arrays, mixture=mixture)(STATE)
    assert figures[0].axes[0].get_title() == "Samples over data of test: 6 of 8 modes"
    scalars = {metric_tags.name_of(tag): value for tag, value in found.scalars.items()}
    assert scalars["modes"] == 6 and scalars["near_share"] > 0.99
    assert found.warnings == ["mode collapse: samples reach 6 of 8 modes"]
    assert not build({"type": "modes", "n": 400}, Ring(8), arrays, mixture=mixture)(STATE).warnings
    assert scalars["mode_kl"] == pytest.approx(math.log(8 / 6), abs=0.01)
    other = build({"type": "modes", "n": 400}, Ring(6), arrays, mixture=mixture._replace(sigma=0.03))(STATE)
    unlike = metric_tags.difference(*(metric_tags.find("modes", list(report.scalars))[0] for report in (found, other)))
    assert unlike.startswith("mixture ") and "n_fake=400" in next(iter(found.scalars))
    assert found.images["modes"].dtype == np.uint8 and found.images["modes"].shape[2] == 3
    with pytest.raises(ConfigError, match="modes: min_share: expected at most half of 1 / 8"):
        build({"type": "modes", "min_share": 0.1}, Ring(8), arrays, mixture=mixture)
    with pytest.raises(ConfigError, match="modes: expected data whose mixture is known"):
        build({"type": "modes"}, Ring(6), arrays)
