"""Figures as uint8 arrays [H, W, 3]: scatter plots, curves, bars, attention maps, spectrograms; images as PNG files."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from gen_jax.runs import metric_tags

STD = "std/"  # before the tag that a deviation belongs to


def new_figure(width: float = 6.4, height: float = 5.2) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def pixels(figure: Any) -> UInt8[np.ndarray, "H W 3"]:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def scatter(
    points: Float[np.ndarray, "N 2"],
    labels: Int[np.ndarray, " N"] | None = None,
    names: tuple[str, ...] = (),
    *,
    title: str,
    axes: tuple[str, str] = ("", ""),
    equal: bool = False,
) -> UInt8[np.ndarray, "H W 3"]:
    """Points in the plane, a colour a label.

    Args:
      labels: indices into `names`; None = one colour and no legend.
      names: for the legend; a label beyond them is shown as its number.
      equal: the same unit on both axes.
    """
    figure = new_figure()
    axis = figure.add_subplot(title=title, xlabel=axes[0], ylabel=axes[1])
    if labels is None:
        axis.scatter(*points.T, s=6, linewidths=0)
    else:
        kinds = np.unique(labels)
        colours = _colours(len(kinds))
        for kind, colour in zip(kinds, colours, strict=True):
            name = names[kind] if kind < len(names) else str(kind)
            axis.scatter(*points[labels == kind].T, s=6, linewidths=0, color=colour, label=name)
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=3, frameon=False)
    if equal:
        axis.set_aspect("equal", adjustable="datalim")
    return pixels(figure)


def _colours(n: int) -> Any:
    import matplotlib

    name = "tab10" if n <= 10 else "tab20" if n <= 20 else "hsv"
    colours = matplotlib.colormaps[name]
    return [colours(i) if n <= 20 else colours(i / n) for i in range(n)]


def lines(
    series: dict[str, tuple[Shaped[np.ndarray, " N"], Shaped[np.ndarray, " N"]]],
    *,
    title: str,
    axes: tuple[str, str] = ("", ""),
    log: Literal["", "x", "y", "xy"] = "",
    bands: Mapping[str, Shaped[np.ndarray, " N"]] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Curves by name, (x, y) each; `log` names logarithmic axes. bands: by name, so much on either side."""
    figure = new_figure()
    axis = figure.add_subplot(title=title, xlabel=axes[0], ylabel=axes[1])
    for (name, (x, y)), colour in zip(series.items(), _colours(len(series)), strict=True):
        axis.plot(x, y, label=name, color=colour, marker="." if len(x) < 30 else "")
        if bands and np.any(width := bands[name]):
            axis.fill_between(x, y - width, y + width, color=colour, alpha=0.2, linewidth=0)
    axis.set(**{f"{name}scale": "log" for name in log})
    if series:
        axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    return pixels(figure)


def panels(
    series: dict[str, Shaped[np.ndarray, "N T"]], *, title: str, axes: tuple[str, str] = ("", "")
) -> UInt8[np.ndarray, "H W 3"]:
    """Several curves over 0 ... T - 1 a panel; the panels stand one below the other, by name, with the same axes."""
    figure = new_figure(6.4, 0.8 + 1.9 * len(series))
    plots = figure.subplots(len(series), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for plot, (name, curves_) in zip(plots, series.items(), strict=True):
        for curve, colour in zip(curves_, _colours(len(curves_)), strict=True):
            plot.plot(curve, color=colour)
        plot.set_title(name, fontsize=10, loc="left")
        plot.set_ylabel(axes[1])
        plot.grid(alpha=0.3)
    plots[-1].set_xlabel(axes[0])
    figure.suptitle(title)
    return pixels(figure)


def scaling(
    sizes: list[int],
    panels: dict[str, dict[str, list[float]]],
    *,
    title: str,
    axis: str = "",
    units: tuple[str, ...] = (),
) -> UInt8[np.ndarray, "H W 3"]:
    """Values over sizes that grow by factors: a panel a heading, with curves by name from 0 up. units: one a panel."""
    figure = new_figure(5.0 * len(panels), 3.6)
    for plot, (heading, curves_), unit in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), units, strict=True
    ):
        for (name, values), colour in zip(curves_.items(), _colours(len(curves_)), strict=True):
            plot.plot(sizes, values, label=name, color=colour, marker="o")
        plot.set(title=heading, xlabel=axis, ylabel=unit)
        plot.set_xscale("log", base=2)
        plot.set_xticks(sizes, [f"{size}" for size in sizes])
        plot.set_ylim(0, 1.25 * max(max(values) for values in curves_.values()) or 1)
        plot.legend(frameon=False)
        plot.grid(alpha=0.3)
    figure.suptitle(title)
    return pixels(figure)


def bars(
    heights: dict[str, Float[np.ndarray, " K"]], names: tuple[str, ...], *, title: str, axis: str = ""
) -> UInt8[np.ndarray, "H W 3"]:
    """Groups of bars side by side, a group a name, a colour a series."""
    figure = new_figure()
    plot = figure.subplots()
    width = 0.8 / len(heights)
    for i, (label, values) in enumerate(heights.items()):
        plot.bar(np.arange(len(values)) + (i + 0.5) * width - 0.4, values, width, label=label)
    crowded = sum(map(len, names)) > 50
    plot.set_xticks(range(len(names)), names, rotation=90 if crowded else 0)
    plot.set_ylabel(axis)
    plot.set_title(title)
    plot.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return pixels(figure)


def curves(
    rows: list[dict[str, Any]], tags: tuple[str, ...] = ("train/loss",), *, title: str
) -> UInt8[np.ndarray, "H W 3"]:
    """Values over steps from the rows of metrics.jsonl, `{"step": 100, "train/loss": 1.2}`; a row may lack a tag.

    A band of one deviation on either side where the rows have it: `"std/train/loss": 0.1`.
    """
    series, bands = {}, {}
    for tag in tags:
        has = [row for row in rows if row.get(tag) is not None]
        series[tag] = (
            np.array([row["step"] for row in has], np.int64),
            np.array([row[tag] for row in has], np.float64),
        )
        bands[tag] = np.array([row.get(f"{STD}{tag}") or 0.0 for row in has], np.float64)
    return lines(series, title=title, axes=("step", tags[0] if len(tags) == 1 else ""), bands=bands)


def of_a_run(rows: list[dict[str, Any]]) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """The losses over a whole run as one picture, `curves`, BLEU as another; what there is of them."""
    drawn = {}
    for name, ending, title in (("curves", "loss", "Losses"), ("curves_bleu", "bleu", "BLEU")):
        names = {tag: metric_tags.name_of(tag) for row in rows for tag in row if not tag.startswith(STD)}
        tags = tuple(tag for tag, name in names.items() if name.endswith(ending) and not name.endswith("self_bleu"))
        if tags:
            drawn[name] = curves(rows, tags, title=title)
    return drawn


def attention(
    weights: Float[np.ndarray, "L N T S"], inputs: list[str], attended: list[str], *, title: str
) -> UInt8[np.ndarray, "H W 3"]:
    """A row of maps a layer, a map a head: a row of a map is an input, dark where it attends.

    Args:
      inputs, attended: T and S labels of the rows and columns.
    """
    layers, heads = weights.shape[:2]
    width, height = (0.13 * len(texts) + 0.08 * max(map(len, texts)) + 0.3 for texts in (attended, inputs))
    figure = new_figure(max(6.4, max(1.4, width) * heads), 0.4 + max(1.4, height) * layers)
    for i in range(layers):
        for j in range(heads):
            axis = figure.add_subplot(layers, heads, i * heads + j + 1)
            axis.imshow(weights[i, j], cmap="Greys", vmin=0, vmax=1, aspect="auto")
            axis.set_title(f"layer {i + 1}, head {j + 1}", fontsize=8)
            axis.set_xticks(range(len(attended)), attended, fontsize=7, rotation=90)
            axis.set_yticks(range(len(inputs)), inputs, fontsize=7)
            axis.tick_params(length=0, pad=1)
    figure.suptitle(title, fontsize=10)
    return pixels(figure)


def spectrogram(sound: Shaped[np.ndarray, " T"], *, window: int = 256, hop: int = 64) -> Float[np.ndarray, "F N"]:
    """Magnitudes in decibels below the sound's own loudest, from 0 to -inf: a Hann window every `hop` samples.

    Frequencies 0 ... half the sample rate, F = window / 2 + 1; sounds shorter than the window are padded with silence.
    """
    sound = np.pad(sound.astype(np.float64), (0, max(0, window - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(sound, window)[::hop] * np.hanning(window)  # [N, window]
    magnitude = np.abs(np.fft.rfft(frames, axis=1)).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return 20 * np.log10(magnitude / max(magnitude.max(), 1e-9))


def spectrograms(
    sounds: Shaped[np.ndarray, "N T"],
    sample_rate: int,
    columns: int,
    *,
    title: str,
    names: Sequence[str],
    rows: Sequence[str] = (),
) -> UInt8[np.ndarray, "H W 3"]:
    """Sounds in rows, over time and frequency, each down to 60 dB below its loudest.

    Args:
      names: one a sound, above it.
      rows: one a row, left of it.
    """
    columns = min(columns, len(sounds))
    high = math.ceil(len(sounds) / columns)
    figure = new_figure(1.4 + 1.5 * columns, 1.0 + 1.1 * high)
    axes = figure.subplots(high, columns, sharex=True, sharey=True, squeeze=False)
    extent = (0, sounds.shape[1] / sample_rate, 0, sample_rate / 2000)
    for axis, sound, name in zip(axes.ravel(), sounds, names, strict=False):
        levels = np.maximum(spectrogram(sound), -60)
        drawn = axis.imshow(levels, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-60, vmax=0)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
    for i in range(len(sounds), high * columns):
        axes.ravel()[i].set_axis_off()
        axes.ravel()[i - columns].tick_params(labelbottom=True)
    for axis, row in zip(axes[:, 0], rows, strict=False):
        axis.set_ylabel(row, fontsize=9)
    figure.colorbar(drawn, ax=axes, label="dB below the loudest", shrink=min(1.0, 2 / high))
    figure.suptitle(title, fontsize=10)
    figure.supxlabel("seconds", fontsize=9)
    figure.supylabel("kHz", fontsize=9)
    return pixels(figure)


def read_png(data: bytes) -> UInt8[np.ndarray, "H W C"]:
    """The image of a PNG file: grey (C = 1) or RGB (C = 3)."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        grey = image.mode in ("1", "L")
        return np.array(image.convert("L" if grey else "RGB")).reshape(image.height, image.width, -1)


def png(image: UInt8[np.ndarray, "H W C"]) -> bytes:
    """A PNG file of a grey (C = 1) or RGB (C = 3) image."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()
