"""The denoisers of `experiments/diffusion/bench.py` in plain PyTorch, to compare speed. Needs torch and numpy only.

`python docs/peers/denoisers.py dit --seconds 5`, or `unet`; `--compile` and `--device cuda` as they say. The same
parameters, batch, loss, Adam and average of the weights. The last line is JSON, as that of `gen-jax bench`.
"""

import argparse
import json
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

BATCH, CLASSES, SIGMA_DATA = 64, 10, 0.5


class Condition(nn.Module):
    """lambda [B], label [B] -> [B, width]."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("frequencies", torch.tensor(np.geomspace(1 / 64, 4, 32), dtype=torch.float32))
        self.first, self.second = nn.Linear(64, width), nn.Linear(width, width)
        self.classes = nn.Embedding(CLASSES + 1, width)

    def forward(self, log_snr, label):
        angles = log_snr[:, None] * self.frequencies
        h = math.sqrt(2) * torch.cat([angles.sin(), angles.cos()], 1)
        return F.silu(self.second(F.silu(self.first(h))) + self.classes(label))


class Attention(nn.Module):
    """[B, T, D] -> the same."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, t, width = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, width))


class Modulated(nn.Module):
    """A block of DiT."""

    def __init__(self, width, heads):
        super().__init__()
        self.modulation, self.attention = nn.Linear(width, 6 * width), Attention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, condition):
        parts = self.modulation(condition)[:, None].chunk(6, -1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts
        x = x + gate * self.attention((1 + scale) * F.layer_norm(x, x.shape[-1:]) + shift)
        h = self.up((1 + mlp_scale) * F.layer_norm(x, x.shape[-1:]) + mlp_shift)
        return x + mlp_gate * self.down(F.gelu(h))


class DiT(nn.Module):
    """[B, 1, 28, 28] -> the same: patches of 4, 6 blocks of width 128 with 4 heads."""

    def __init__(self, patch=4, layers=6, width=128, heads=4):
        super().__init__()
        self.patch, tokens = patch, (28 // patch) ** 2
        self.patches, self.positions = nn.Linear(patch**2, width), nn.Parameter(0.02 * torch.randn(tokens, width))
        self.condition, self.last_modulation = Condition(width), nn.Linear(width, 2 * width)
        self.blocks = nn.ModuleList(Modulated(width, heads) for _ in range(layers))
        self.pixels = nn.Linear(width, patch**2)

    def forward(self, x, log_snr, label):
        b, p = len(x), self.patch
        h = x.view(b, 28 // p, p, 28 // p, p).transpose(2, 3).reshape(b, -1, p * p)
        h, condition = self.patches(h) + self.positions, self.condition(log_snr, label)
        for block in self.blocks:
            h = block(h, condition)
        shift, scale = self.last_modulation(condition)[:, None].chunk(2, -1)
        h = self.pixels((1 + scale) * F.layer_norm(h, h.shape[-1:]) + shift)
        return h.view(b, 28 // p, 28 // p, p, p).transpose(2, 3).reshape(x.shape)


class ResBlock(nn.Module):
    """A block of the U-Net."""

    def __init__(self, channels, width, condition):
        super().__init__()
        self.norm, self.modulated = nn.GroupNorm(8, channels), nn.GroupNorm(8, width)
        self.conv, self.last = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(condition, 2 * width)
        self.shortcut = nn.Identity() if channels == width else nn.Conv2d(channels, width, 1)

    def forward(self, x, condition):
        h = self.conv(F.silu(self.norm(x)))
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, 1)
        return self.shortcut(x) + self.last(F.silu((1 + scale) * self.modulated(h) + shift))


class MapAttention(nn.Module):
    """Attention over the positions of [B, C, H, W]."""

    def __init__(self, channels, heads):
        super().__init__()
        self.norm, self.attention = nn.GroupNorm(8, channels), Attention(channels, heads)

    def forward(self, x):
        h = self.attention(self.norm(x).flatten(2).transpose(1, 2))
        return x + h.transpose(1, 2).reshape(x.shape)


class UNet(nn.Module):
    """[B, 1, 28, 28] -> the same: 32, 64, 96 channels at sides 28, 14, 7, with attention at 7."""

    def __init__(self, widths=(32, 64, 96), heads=4):
        super().__init__()
        self.condition, condition = Condition(4 * widths[0]), 4 * widths[0]
        self.first, skips = nn.Conv2d(1, widths[0], 3, padding=1), [widths[0]]
        self.down, self.up, self.grow, channels = nn.ModuleList(), nn.ModuleList(), nn.ModuleList(), widths[0]
        for i, width in enumerate(widths):
            self.down.append(ResBlock(channels, width, condition))
            channels = width
            skips += [width] if i == len(widths) - 1 else [width, width]
        self.middle, self.attention = ResBlock(channels, channels, condition), nn.ModuleList()
        self.attention.extend(MapAttention(widths[-1], heads) for _ in range(3))
        for i, width in reversed(list(enumerate(widths))):
            for _ in range(2):
                self.up.append(ResBlock(channels + skips.pop(), width, condition))
                channels = width
            self.grow.append(nn.Conv2d(width, width, 3, padding=1) if i else nn.Identity())
        self.norm, self.pixels = nn.GroupNorm(8, widths[0]), nn.Conv2d(widths[0], 1, 3, padding=1)

    def forward(self, x, log_snr, label):
        condition = self.condition(log_snr, label)
        h = self.first(x)
        skips, last = [h], len(self.down) - 1
        for i, block in enumerate(self.down):
            h = block(h, condition)
            h = self.attention[0](h) if i == last else h
            skips.append(h)
            if i < last:
                h = F.avg_pool2d(h, 2)
                skips.append(h)
        h = self.middle(h, condition)
        for i, grow in enumerate(self.grow):
            for j in (2 * i, 2 * i + 1):
                h = self.up[j](torch.cat([h, skips.pop()], 1), condition)
                h = self.attention[1 + j](h) if i == 0 else h
            if i < last:
                h = grow(F.interpolate(h, scale_factor=2.0))
        return self.pixels(F.silu(self.norm(h)))


def loss_fn(model, x, label):
    """v-prediction with the sigmoid weighting, cosine schedule."""
    t = (torch.arange(len(x), device=x.device) / len(x) + torch.rand(1, device=x.device)) % 1
    low, high = (2 / math.pi * math.atan(math.exp(-end / 2)) for end in (13.3, -13.3))
    angle = math.pi / 2 * (low + t * (high - low))
    log_snr, slope = -2 * torch.log(torch.tan(angle)), -2 * math.pi * (high - low) / torch.sin(2 * angle)
    alpha, sigma = (part[:, None, None, None] for part in (angle.cos(), angle.sin()))
    label = torch.where(torch.rand(len(x), device=x.device) < 0.1, CLASSES, label)
    noise = torch.randn_like(x)
    z = alpha * x + sigma * noise
    y = model(z / torch.sqrt((alpha * SIGMA_DATA) ** 2 + sigma**2), log_snr, label)
    weight = -slope / 2 * torch.sigmoid(2 - log_snr) * torch.sigmoid(log_snr)
    return (weight * (y - (alpha * noise - sigma * x)).square().mean((1, 2, 3))).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", choices=("dit", "unet"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--fused", action="store_true")
    args = parser.parse_args()
    model = {"dit": DiT, "unet": UNet}[args.net]().to(args.device)
    params = list(model.parameters())
    optimizer = torch.optim.Adam(params, lr=1e-3, fused=args.fused or None)
    average = [p.detach().clone() for p in params]
    rng = np.random.default_rng(0)
    images = torch.tensor(rng.uniform(-1, 1, (1797, 1, 28, 28)), dtype=torch.float32, device=args.device)
    labels = torch.tensor(rng.integers(0, CLASSES, 1797), device=args.device)
    compute = torch.compile(loss_fn) if args.compile else loss_fn

    def step():
        rows = torch.randint(len(images), (BATCH,), device=args.device)
        optimizer.zero_grad(set_to_none=True)
        loss = compute(model, images[rows], labels[rows])
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, params, 1e-3)
        return loss.detach()

    for _ in range(3):
        float(step())
    steps, start, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < args.seconds:
        loss = step()
        steps += 1
        if steps % 10 == 0:
            float(loss)
    float(loss)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    result = dict(net=args.net, parameters=sum(p.numel() for p in params), steps=steps)
    print(json.dumps(result | dict(ms_per_step=1e3 * wall / steps, cpu_ms_per_step=1e3 * cpu / steps)))


if __name__ == "__main__":
    main()
