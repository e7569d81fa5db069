"""Pictures to look at, as uint8 arrays [H, W, 1 or 3]: grids of images, scatter plots, curves."""

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

STD = "std/"  # before the tag that a deviation belongs to
GAP = 96  # grey level between the images of a grid: neither paper nor ink
CAPTION = 12  # pixels of height


def grid(
    images: UInt8[np.ndarray, "N H W C"], columns: int = 0, *, pad: int = 1, scale: int = 0
) -> UInt8[np.ndarray, "h w C"]:
    """Images in rows, `pad` pixels of grey around each, enlarged by whole pixels.

    Args:
      columns: 0 = about square, and such that the last row is full where such a number is near.
      pad: before enlarging.
      scale: 0 = the smallest that makes the longer side 512 pixels, at most 8.
    """
    n, h, w, c = images.shape
    columns = min(columns or _columns(n, h / w), n)
    rows = math.ceil(n / columns)
    cells = np.full((rows * columns, h + pad, w + pad, c), GAP, np.uint8)
    cells[:n, pad:, pad:] = images
    # [rows, columns, h, w, C] -> [rows h, columns w, C]
    tiled = cells.reshape(rows, columns, h + pad, w + pad, c).swapaxes(1, 2).reshape(rows * (h + pad), -1, c)
    tiled = np.pad(tiled, ((0, pad), (0, pad), (0, 0)), constant_values=GAP)
    return enlarge(tiled, scale or min(8, math.ceil(512 / max(tiled.shape[:2]))))


def _columns(n: int, ratio: float) -> int:
    """Of n images in a grid that is about square: the nearest divisor of n, if one is within a factor of 1.6."""
    square = math.sqrt(n * ratio)
    full = [k for k in range(1, n + 1) if n % k == 0 and 1 / 1.6 <= k / square <= 1.6]
    return min(full, key=lambda k: (round(abs(math.log(k / square)), 6), -k), default=math.ceil(square))


def captioned(images: UInt8[np.ndarray, "N H W C"], captions: list[str]) -> UInt8[np.ndarray, "h w 3"]:
    """A grid of images, enlarged by whole pixels to 48 at least, each above its caption."""
    from PIL import Image, ImageDraw

    scale = max(1, math.ceil(48 / min(images.shape[1:3])))
    cells = []
    for image, caption in zip(np.broadcast_to(images, (*images.shape[:3], 3)), captions, strict=True):
        large = enlarge(image, scale)
        strip = Image.new("RGB", (large.shape[1], CAPTION), "white")
        ImageDraw.Draw(strip).text((2, 0), caption, fill="black")
        cells.append(np.concatenate([large, np.asarray(strip)]))
    return grid(np.stack(cells), pad=2, scale=1)


def enlarge(image: UInt8[np.ndarray, "H W C"], scale: int) -> UInt8[np.ndarray, "h w C"]:
    """Each pixel `scale` times as wide and high."""
    return image.repeat(scale, 0).repeat(scale, 1)


def pairs(
    above: UInt8[np.ndarray, "N H W C"], *below: UInt8[np.ndarray, "N H W C"], columns: int = 8
) -> UInt8[np.ndarray, "h w C"]:
    """A grid with each row of `above` over the same row of each `below`; the rest is grey."""
    columns = min(columns, len(above))
    fill = -len(above) % columns

    def in_rows(images):
        images = np.pad(images, ((0, fill), (0, 0), (0, 0), (0, 0)), constant_values=GAP)
        return images.reshape(-1, columns, *images.shape[1:])

    rows = np.stack([in_rows(images) for images in (above, *below)], 1)  # [R, 2 or more, columns, H, W, C]
    return grid(rows.reshape(-1, *above.shape[1:]), columns)


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
    title: str = "",
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
    title: str = "",
    axes: tuple[str, str] = ("", ""),
    log: bool = False,
    bands: Mapping[str, Shaped[np.ndarray, " N"]] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Curves by name, (x, y) each; `log` makes the y axis logarithmic. bands: by name, so much on either side."""
    figure = new_figure()
    axis = figure.add_subplot(title=title, xlabel=axes[0], ylabel=axes[1])
    for (name, (x, y)), colour in zip(series.items(), _colours(len(series)), strict=True):
        axis.plot(x, y, label=name, color=colour, marker="." if len(x) < 30 else "")
        if bands and np.any(width := bands[name]):
            axis.fill_between(x, y - width, y + width, color=colour, alpha=0.2, linewidth=0)
    if log:
        axis.set_yscale("log")
    if series:
        axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    return pixels(figure)


def scaling(
    sizes: list[int], panels: dict[str, dict[str, list[float]]], *, axis: str = "", units: tuple[str, ...] = ()
) -> UInt8[np.ndarray, "H W 3"]:
    """Values over sizes that grow by factors: a panel a title, with curves by name from 0 up; `units`, one a panel."""
    figure = new_figure(5.0 * len(panels), 3.6)
    for plot, (title, curves_), unit in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), units, strict=True
    ):
        for (name, values), colour in zip(curves_.items(), _colours(len(curves_)), strict=True):
            plot.plot(sizes, values, label=name, color=colour, marker="o")
        plot.set(title=title, xlabel=axis, ylabel=unit)
        plot.set_xscale("log", base=2)
        plot.set_xticks(sizes, [f"{size}" for size in sizes])
        plot.set_ylim(0, 1.25 * max(max(values) for values in curves_.values()) or 1)
        plot.legend(frameon=False)
        plot.grid(alpha=0.3)
    return pixels(figure)


def bars(
    heights: dict[str, Float[np.ndarray, " K"]], names: tuple[str, ...], *, title: str = "", axis: str = ""
) -> UInt8[np.ndarray, "H W 3"]:
    """Groups of bars side by side, a group a name, a colour a series."""
    figure = new_figure()
    plot = figure.subplots()
    width = 0.8 / len(heights)
    for i, (label, values) in enumerate(heights.items()):
        plot.bar(np.arange(len(values)) + (i + 0.5) * width - 0.4, values, width, label=label)
    plot.set_xticks(range(len(names)), names)
    plot.set_ylabel(axis)
    plot.set_title(title)
    plot.legend()
    return pixels(figure)


def curves(
    rows: list[dict[str, Any]], tags: tuple[str, ...] = ("train/loss",), title: str = ""
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
    for name, ending, title in (("curves", "loss", "losses"), ("curves_bleu", "bleu", "BLEU")):
        tags = dict.fromkeys(tag for row in rows for tag in row if tag.endswith(ending) and not tag.startswith(STD))
        if tags := tuple(tag for tag in tags if not tag.endswith("self_bleu")):
            drawn[name] = curves(rows, tags, title)
    return drawn


def attention(
    weights: Float[np.ndarray, "L N T S"], inputs: list[str], attended: list[str]
) -> UInt8[np.ndarray, "H W 3"]:
    """A row of maps a layer, a map a head: a row of a map is an input, dark where it attends.

    Args:
      inputs, attended: T and S labels of the rows and columns.
    """
    layers, heads = weights.shape[:2]
    width, height = 0.09 * len(attended) + 0.5, 0.09 * len(inputs) + 0.5
    figure = new_figure(max(6.4, width * heads), max(2.0, height * layers))
    for i in range(layers):
        for j in range(heads):
            axis = figure.add_subplot(layers, heads, i * heads + j + 1)
            axis.imshow(weights[i, j], cmap="Greys", vmin=0, vmax=1, aspect="auto")
            axis.set_title(f"layer {i + 1}, head {j + 1}", fontsize=7)
            axis.set_xticks(range(len(attended)), attended, fontsize=5, rotation=90)
            axis.set_yticks(range(len(inputs)), inputs, fontsize=5)
            axis.tick_params(length=0, pad=1)
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
    sounds: Shaped[np.ndarray, "R C T"], sample_rate: int, rows: tuple[str, ...], columns: tuple[str, ...]
) -> UInt8[np.ndarray, "H W 3"]:
    """Sounds in rows and columns, over time and frequency, each down to 60 dB below its loudest."""
    high, wide = sounds.shape[:2]
    figure = new_figure(1.0 + 1.5 * wide, 0.8 + 1.0 * high)
    axes = figure.subplots(high, wide, sharex=True, sharey=True, squeeze=False)
    extent = (0, sounds.shape[2] / sample_rate, 0, sample_rate / 2000)
    for i, j in np.ndindex(high, wide):
        levels = np.maximum(spectrogram(sounds[i, j]), -60)
        drawn = axes[i, j].imshow(levels, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-60, vmax=0)
        if i == 0:
            axes[i, j].set_title(columns[j], fontsize=9)
        if j == 0:
            axes[i, j].set_ylabel(rows[i], fontsize=9)
    figure.colorbar(drawn, ax=axes, label="dB below the loudest", shrink=0.6)
    figure.supxlabel("seconds", fontsize=9)
    figure.supylabel("kHz", fontsize=9)
    return pixels(figure)


def png(image: UInt8[np.ndarray, "H W C"]) -> bytes:
    """A PNG file of a grey (C = 1) or RGB (C = 3) image."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()
