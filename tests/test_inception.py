"""InceptionV3 layer by layer against PyTorch's on random weights; files that do not fit are refused."""

import hashlib
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inception_reference import LAYERS, RESIZED, image, moments, weights
from safetensors.numpy import save

from gen_jax.errors import CheckpointError, ConfigError
from gen_jax.features import inception
from gen_jax.nets.inception import InceptionV3


@pytest.fixture(scope="module")
def tensors():
    return weights(dict(inception.layout().values())) | {"fc.bias": np.zeros(1008, np.float32)}


def test_each_layer_is_pytorchs(tensors):
    variables = inception.convert(tensors)
    x = (image().astype(np.float32) - 128) / 128

    @jax.jit
    def run(variables, x):
        outputs, kept = InceptionV3().apply(variables, x, capture_intermediates=lambda m, _: m.name in LAYERS)
        return outputs, kept["intermediates"]

    (features, logits), kept = run(variables, jnp.asarray(x))
    found = {name: layer["__call__"][0] for name, layer in kept.items() if name in LAYERS}
    found |= {"2048": features, "logits": logits}
    assert set(found) == set(LAYERS)
    for name, expected in LAYERS.items():
        np.testing.assert_allclose(moments(found[name]), expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_resizing_is_tensorflow_1s():
    found = np.asarray(jax.jit(inception.resize)(image()[:, :7, :10]))
    np.testing.assert_allclose([*moments(found), *found[0, ::60, 37, 1]], RESIZED, rtol=1e-6)


def test_files_that_do_not_fit_are_refused(tensors, tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no tensor Mixed_5b\.branch1x1\.conv\.weight"):
        inception.convert({k: v for k, v in tensors.items() if k != "Mixed_5b.branch1x1.conv.weight"})
    with pytest.raises(CheckpointError, match=r"fc\.weight: the file has \[1000, 2048\], InceptionV3 \[1008, 2048\]"):
        inception.convert(tensors | {"fc.weight": tensors["fc.weight"][:1000]})
    with pytest.raises(CheckpointError, match="no place for AuxLogits"):
        inception.convert(tensors | {"AuxLogits": np.zeros(1)})
    with pytest.raises(ConfigError, match="there is no file"):
        inception.features(str(tmp_path / "none"))
    file = tmp_path / "w.safetensors"
    file.write_bytes(save({"fc.weight": tensors["fc.weight"][:3]}))
    with pytest.raises(ConfigError, match=r"features\.sha256: expected 00, .* has [0-9a-f]{64}"):
        inception.features(str(file), "00")
    with pytest.raises(CheckpointError, match="there is no tensor"):
        inception.features(str(file), hashlib.sha256(file.read_bytes()).hexdigest())
    for start in (b"\x80\x04pickle", b"PK\x03\x04archive"):
        file.write_bytes(start)
        with pytest.raises(CheckpointError, match=r"not safetensors .* convert a \.pth file by: python -c .*save_file"):
            inception.features(str(file))


def test_weights_are_fetched_once_and_only_those_of_the_hash(tensors, tmp_path, monkeypatch):
    content, asked = save(tensors), []

    def urlopen(address, timeout):
        asked.append(address)
        return io.BytesIO(content)

    monkeypatch.setenv("GEN_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(inception.urllib.request, "urlopen", urlopen)
    address, sha256 = "https://example.org/w.safetensors", hashlib.sha256(content).hexdigest()
    with pytest.raises(ConfigError, match=r"features\.sha256: expected 00"):
        inception.features(address, "00")
    for _ in range(2):
        assert inception.features(address, sha256).load().digest == sha256[:12]
    assert asked == [address] * 2
