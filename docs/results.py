"""Fills the tables of results in README and on these pages from `EXPECT` of each config: `python docs/results.py`.

A table stands between `<!-- results FAMILY -->` and `<!-- end -->`. Without a family it has all configs; README's,
`<!-- results first -->`, has a row for each family.
"""

import re
from pathlib import Path

from gen_jax import config_file
from gen_jax.results import expected

DOCS = Path(__file__).parent
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]
FIRST = {  # family -> its config, and a name for the run
    "VAE": ("vae/digits", "vae_digits"),
    "VQ-VAE": ("vqvae/images", "vqvae_digits"),
    "GAN": ("gan/ring", "gan_ring"),
    "Diffusion": ("diffusion/digits", "diffusion_digits"),
    "Flow maps": ("mean_flow/digits", "mean_flow_digits"),
    "Masked diffusion": ("masked_diffusion/digits", "masked"),
    "CycleGAN": ("cyclegan/colours", "cyclegan"),
    "VAE-GAN": ("vaegan/images", "vaegan"),
    "Transformer": ("transformer/digits_pixels", "pixels"),
    "LSTM": ("lstm/pydoc", "lstm_pydoc"),
    "seq2seq": ("encoder_decoder/reversal", "reversal"),
    "AR(k)": ("linear_ar/ar", "linear_ar"),
}
HEAD = "| config | metric | expected | published or reference | minutes |\n|---|---|---|---|---|\n"
HERE = expected.Expectation().machine


def filled(text: str) -> str:
    """A page with its tables as the configs say now."""
    return re.sub(
        r"(<!-- results ?(\w*) -->\n).*?(<!-- end -->)",
        lambda found: found[1] + (first() if found[2] == "first" else table(found[2])) + found[3],
        text,
        flags=re.S,
    )


def first() -> str:
    """A row for each family: how to train it, minutes, and the first metric of its config."""
    rows = "| family | command | minutes | result |\n|---|---|---|---|\n"
    for family, (spec, run) in FIRST.items():
        one = expected.of(spec)
        command = f"gen-jax train --config={spec} --workdir=runs/{run}"
        name = one.metrics[0].metric.partition("/")[2]
        rows += f"| {family} | `{command}` | {one.minutes:g} | {name} {value(one.metrics[0])} |\n"
    return rows


def table(family: str) -> str:
    """A row a metric, or one for a config that was not run to its end; below it the notes."""
    rows, notes = [], []
    for name in config_file.experiments():
        for one in expected.of_file(name) if name.startswith(f"{family}/" if family else "") else []:
            spec = expected.spec_of(name, one)
            rows += row(spec, one)
            flags = [f"Set {' and '.join(f'`{flag}`' for flag in one.flags)}."] if one.flags else []
            notes += [f"- `{spec}`: {' '.join([*flags, one.note])}".rstrip() + "\n"] if flags or one.note else []
    return HEAD + "".join(rows) + ("\n" + "".join(notes) if notes else "")


def row(spec: str, one: expected.Expectation) -> list[str]:
    time = f"{one.minutes:g}" if one.minutes else "-"
    time += "" if one.machine == HERE else f", {one.machine}"
    if not one.metrics:
        return [f"| `{spec}` | - | - | - | {time} |\n"]
    first = [f"`{spec}`", *[""] * (len(one.metrics) - 1)]
    return [
        f"| {name} | `{metric.metric}` | {reached(metric)} | {reference(metric)} | {time if name else ''} |\n"
        for name, metric in zip(first, one.metrics, strict=True)
    ]


def value(metric: expected.Metric) -> str:
    return f"{number(metric.value)} {metric.unit}".rstrip()


def reached(metric: expected.Metric) -> str:
    text = f"{number(metric.value)} ± {number(metric.tolerance)}"
    text += f" {metric.unit}" if metric.unit else ""
    return text + (f" ({metric.seeds} seeds)" if metric.seeds > 1 else "")


def reference(metric: expected.Metric) -> str:
    return "-" if metric.published is None else f"{number(metric.published)} ({metric.source})"


def number(value: float) -> str:
    return f"{value:,.6g}"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text()))
