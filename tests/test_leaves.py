"""What leaves.py says of each parameter against the type of the module that made it, over every model."""

import re

import flax.linen as nn
import jax
import pytest
from members import SMALLEST, smoke

from gen_jax.core import leaves
from gen_jax.core.leaves import Leaf
from gen_jax.core.state import path_name
from gen_jax.nets import conv_transpose, dense
from gen_jax.nets.adversarial import BatchNorm
from gen_jax.training.program import Program

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.InstanceNorm, BatchNorm)
# (type of the module, name of the leaf) -> kind
KINDS = {(module, "kernel"): "matrix" for module in (nn.Dense, dense.Dense)}
KINDS |= {(module, "kernel"): "convolution" for module in (nn.Conv, conv_transpose.Conv, conv_transpose.ConvTranspose)}
KINDS |= {(nn.Embed, "embedding"): "embedding"} | {(module, "scale"): "norm" for module in NORMS}
# what is not what its module's type says, or of a module that has its own weights
EXCEPTIONS = {
    "layers_#/recurrent": "matrix",
    "layers_#/recurrent_bias": "bias",
    "logits/kernel": "head",
    "wavenet/head/kernel": "head",
    "Logit_#/Dense_#/kernel": "head",
    "ConditionalBatchNorm_#/scale/embedding": "norm",
    "ConditionalBatchNorm_#/offset/embedding": "norm",
    "coefficients": "other",
    "constant": "other",
    "log_scale": "other",
    "head/log_var": "other",
}
MORE = ("gan/cifar10_sngan.py", "gan/mnist.py:kind=conditional", "transformer/gpt.py:size=1b", "cyclegan/folders.py")
MORE += ("vae/digits_ppca.py", "vae/digits_residual.py", "lstm/markov.py")
FLAGS = {"lstm/markov.py": ("model.cell=gru",)}


def kind_by_type(made, path):
    """The kind that the types of the modules at a leaf's path say; fails where a new type or weight is not listed."""
    module, _, name = path.rpartition("/")
    for exception, kind in EXCEPTIONS.items():
        if re.fullmatch(rf"(.*/)?{exception}".replace("#", r"\d+"), path):
            return kind
    if name == "bias":
        return "bias"
    kinds = {KINDS.get((type_, name)) for type_ in made[module]}
    assert None not in kinds and len(kinds) == 1, f"{path} of {made[module]}: say in leaves.py and here what it is"
    return kinds.pop()


@pytest.mark.parametrize("path", [*SMALLEST.values(), *(f"experiments/{path}" for path in MORE)])
def test_every_leaf_is_what_its_module_makes(path):
    experiment, made = smoke(path, *FLAGS.get(path.removeprefix("experiments/"), ())), {}

    def note(call, args, kwargs, context):
        if context.module.scope is not None:
            made.setdefault("/".join(context.module.path), set()).add(type(context.module))
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        program = Program(experiment)
    for net in program.shapes.nets.values():
        for key, _ in jax.tree_util.tree_leaves_with_path(net.params):
            leaf, name = leaves.classify(path_name(key)), path_name(key)
            assert leaf.kind == kind_by_type(made, name), name
            transposed = conv_transpose.ConvTranspose in made.get(name.rpartition("/")[0], ())
            assert leaf.output == (-2 if transposed and name.endswith("kernel") else -1), name
            assert leaf.stacked == (name.startswith("blocks/") and getattr(experiment.model, "scan_layers", False))


def test_low_rank_updates_are_what_they_update():
    fused = {".*/qkv/kernel": 12}
    assert leaves.classify("blocks/layers/a/qkv/kernel", fused) == Leaf("matrix", stacked=True, blocks=12)
    assert leaves.classify("blocks/layers/a/qkv/kernel_lora/a", fused) == Leaf("matrix", stacked=True)
    assert leaves.classify("blocks/layers/a/qkv/kernel_lora/b", fused) == Leaf("matrix", stacked=True, blocks=12)
    assert leaves.classify("blocks/layers/a/qkv/kernel_lora/scale").vector
    assert leaves.classify("token/embedding_lora/a") == Leaf("embedding")


def test_a_leaf_that_no_rule_knows_is_treated_as_a_vector():
    assert leaves.classify("my_layers/weights") == leaves.classify("Attention_0/gamma") == Leaf("other")
    assert leaves.classify("weights").vector and not leaves.classify("weights").hidden
