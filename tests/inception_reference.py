"""torch-fidelity's InceptionV3 on random weights: run `python tests/inception_reference.py` where it is installed.

Made with torch-fidelity 0.4.0 and torch 2.13.0. LAYERS: the mean and the mean square of each block's output.
"""

import zlib

import numpy as np

LAYERS = {
    "Conv2d_1a_3x3": (0.37035177620163845, 0.4107534143139607),
    "Conv2d_2a_3x3": (0.3692030127859958, 0.4106732522828425),
    "Conv2d_2b_3x3": (0.3566091690952429, 0.4162851604998583),
    "Conv2d_3b_1x1": (0.5361176712880621, 1.0039324317635763),
    "Conv2d_4a_3x3": (0.5917672004753443, 1.1746487445666411),
    "Mixed_5b": (0.6616543677531112, 1.577179676544647),
    "Mixed_5c": (0.6843568744167832, 1.3664400475736804),
    "Mixed_5d": (0.5964778381480722, 1.33110784811704),
    "Mixed_6a": (0.805817626543203, 1.8785936346509386),
    "Mixed_6b": (0.6867745961240576, 1.5519117270101375),
    "Mixed_6c": (0.6086327011193771, 1.2260718655016551),
    "Mixed_6d": (0.5547375608904122, 1.0097333675025697),
    "Mixed_6e": (0.49517258993411434, 0.8172753071295996),
    "Mixed_7a": (0.7766237958082229, 1.4192191584147833),
    "Mixed_7b": (0.5419889012300274, 1.0068786182666358),
    "Mixed_7c": (0.4932560427934618, 0.8227858358961182),
    "2048": (0.49325604316769045, 0.6613669057610417),
    "logits": (0.00799446256594762, 1.2487037280278046),
}
RESIZED = (
    123.09269173894687,
    17960.757160458033,
    196.55184936523438,
    208.0978546142578,
    138.78335571289062,
    194.80718994140625,
    127.65011596679688,
)
SIDE = 107  # of the image that goes through the network; odd sizes test the borders


def image():
    """uint8 [1, SIDE, SIDE, 3]."""
    return np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8)


def weights(shapes):
    """float32 tensors by name, seeded by it: He's scale for kernels, about 1 for variances and scales, else about 0."""
    found = {}
    for name, shape in shapes.items():
        draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
        if len(shape) > 1:
            found[name] = draw * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        elif name.endswith(("running_var", "bn.weight")):
            found[name] = 1 + np.float32(0.1) * np.abs(draw)
        else:
            found[name] = np.float32(0.1) * draw
    return found


def moments(x):
    x = np.asarray(x, np.float64)
    return float(x.mean()), float((x**2).mean())


def main():
    import sys
    from unittest import mock

    import torch

    for name in ("", ".datasets", ".transforms", ".transforms.functional", ".models"):
        sys.modules.setdefault(f"torchvision{name}", mock.MagicMock())
    from torch_fidelity import feature_extractor_inceptionv3 as module
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as resize

    module.load_state_dict_from_url = lambda *_, **__: {}
    module.FeatureExtractorInceptionV3.load_state_dict = lambda self, state: None
    net = module.FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], verbose=False)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items() if value.ndim}
    torch.nn.Module.load_state_dict(
        net, {name: torch.from_numpy(value) for name, value in weights(shapes).items()}, strict=False
    )
    found = {}
    for name, child in net.named_children():
        child.register_forward_hook(lambda _, __, y, name=name: found.update({name: moments(y)}))
    x = torch.from_numpy(image()).permute(0, 3, 1, 2)
    module.interpolate_bilinear_2d_like_tensorflow1x = lambda x, **_: x  # the image keeps its size
    found["2048"], found["logits"] = map(moments, net(x))
    names = [n for n in found if n.startswith(("Conv", "Mixed", "2048", "logits"))]
    print("LAYERS = {", *(f'    "{name}": {found[name]},' for name in names), "}", sep="\n")
    large = resize(x[:, :, :7, :10].float(), size=(299, 299), align_corners=False).permute(0, 2, 3, 1).numpy()
    print("RESIZED =", tuple(float(v) for v in (*moments(large), *large[0, ::60, 37, 1])))


if __name__ == "__main__":
    main()
