"""Pictures of every kind that a folder can hold: what they look like as uint8, and what is refused."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from gen_jax import data
from gen_jax.data import bounds, pixels
from gen_jax.errors import DataError

RAMP = np.repeat(np.linspace(0, 65535, 64).round()[None], 64, 0)  # from black to white
WANTED = np.linspace(0, 255, 64)


def shade(path, channels=1, **fields):
    return pixels.read(path, 64, channels, **fields)[0].astype(int)


@pytest.mark.parametrize(
    ("suffix", "values"),
    [
        ("png", RAMP.astype(np.uint16)),
        ("tiff", RAMP.astype(np.uint16)),
        ("tiff", RAMP.astype(">u2")),
        ("tiff", RAMP.astype(np.int32)),
        ("tiff", (RAMP / 257).astype(np.int32)),
        ("tiff", (RAMP * 2.0**31 / 65536).astype(np.int32)),
        ("tiff", (RAMP / 65535).astype(np.float32)),
        ("tiff", (RAMP / 257).astype(np.float32)),
        ("tiff", RAMP.astype(np.float32)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_values_are_scaled_by_their_range(tmp_path, suffix, values, channels):
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    found = shade(tmp_path / f"a.{suffix}", channels)
    assert np.abs(found - WANTED[:, None]).max() <= 1


def test_the_range_is_that_of_16_bits_however_dark():
    dark = np.full((2, 2), 200, np.uint16)
    np.testing.assert_array_equal(pixels.levels(dark, 65535), 1)
    np.testing.assert_array_equal(pixels.levels(np.zeros((2, 2), np.float32)), 0)
    for bad in (-1.0, np.nan, np.inf, 1e12):
        with pytest.raises(ValueError, match="expected grey values"):
            pixels.levels(np.array([[0, bad]]))


def clear(mode):
    """Left half opaque blue, right half transparent with red underneath."""
    array = np.zeros((64, 64, 4), np.uint8)
    array[:, :32] = (0, 0, 255, 255)
    array[:, 32:] = (255, 0, 0, 0)
    picture = Image.fromarray(array)
    if mode == "P":
        palette = Image.fromarray((np.arange(64) >= 32).astype(np.uint8)[None].repeat(64, 0), "P")
        palette.putpalette([0, 0, 255, 255, 0, 0])
        palette.info["transparency"] = 1
        return palette
    return picture.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("background", [255, 0, 77])
def test_hidden_colours_are_not_seen(tmp_path, mode, background):
    clear(mode).save(tmp_path / "a.png")
    found = shade(tmp_path / "a.png", 3, background=background)
    assert (found[32:] == background).all()
    assert (found[:32] == ((29,) * 3 if mode == "LA" else (0, 0, 255))).all()
    section = dict(source="image_folder", path=str(tmp_path), size=64, background=background, validation=0, test=0)
    dataset = data.load(data.parse(section), 0)
    np.testing.assert_array_equal(dataset.arrays["train"]["image"][0, 0], found)


def test_half_transparent_is_half_the_background(tmp_path):
    Image.fromarray(np.full((64, 64, 4), (0, 0, 0, 128), np.uint8)).save(tmp_path / "a.png")
    np.testing.assert_allclose(shade(tmp_path / "a.png"), 127, atol=1)


def test_other_modes_keep_their_colours(tmp_path):
    red = Image.new("RGB", (64, 64), (255, 0, 0))
    red.convert("CMYK").save(tmp_path / "a.tiff")
    red.save(tmp_path / "b.gif", save_all=True, append_images=[Image.new("RGB", (64, 64), (0, 0, 255))])
    for name in ("a.tiff", "b.gif"):
        assert np.abs(shade(tmp_path / name, 3) - (255, 0, 0)).max() <= 1
    Image.fromarray(np.eye(64, dtype=bool)).save(tmp_path / "c.png")
    np.testing.assert_array_equal(shade(tmp_path / "c.png")[:, 0], 255 * (np.arange(64) == 0))


def test_a_turned_photo_stands_upright(tmp_path):
    picture = Image.fromarray(RAMP.astype(np.uint16) // 257).convert("L")
    exif = picture.getexif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "a.jpg", exif=exif, quality=100)
    assert np.abs(shade(tmp_path / "a.jpg")[:, 0] - WANTED[::-1]).max() < 4


def test_a_picture_that_claims_to_be_huge_is_refused_before_it_is_decoded(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(file, "png")
    whole = file.getvalue()
    chunk = b"IHDR" + (100_000).to_bytes(4, "big") * 2 + whole[24:29]
    (tmp_path / "a.png").write_bytes(whole[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + whole[33:])
    with pytest.raises(DataError) as caught:
        shade(tmp_path / "a.png")
    assert str(caught.value) == (
        f"{tmp_path}/a.png: 100000 x 100000 pixels, more than 200,000,000; set GEN_JAX_UNBOUNDED=1 to read it anyway"
    )


def test_what_is_no_picture_is_named_on_one_line(tmp_path, monkeypatch):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(file, "png")
    for name, content in (("cut.png", file.getvalue()[:2000]), ("text.png", b"no picture"), ("empty.png", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name) as caught:
            shade(tmp_path / name)
        assert "\n" not in str(caught.value)
    (tmp_path / "large.png").write_bytes(file.getvalue())
    monkeypatch.setattr(bounds, "PIXELS", 4000)
    with pytest.raises(DataError, match=r"large\.png: 64 x 64 pixels, more than 4,000; set GEN_JAX_UNBOUNDED=1"):
        shade(tmp_path / "large.png")
    monkeypatch.setenv("GEN_JAX_UNBOUNDED", "1")
    assert shade(tmp_path / "large.png").shape == (64, 1)


@pytest.mark.parametrize(
    ("dtype", "levels", "want"),
    [(np.int32, (60_000, 250), (233, 1)), (np.float32, (200, 1), (200, 1)), (np.float32, (0.5, 1), (128, 255))],
)
def test_the_pictures_of_a_set_have_one_white(tmp_path, dtype, levels, want):
    """A dark picture is not made as bright as a bright one."""
    for name, level in zip("ab", levels, strict=True):
        Image.fromarray(np.full((8, 8), level, dtype)).save(tmp_path / f"{name}.tiff")
    section = dict(source="image_folder", path=str(tmp_path), size=8, channels=1, validation=0.0, test=0.0)
    found = data.load(data.parse(section), 0).arrays["train"]["image"]
    assert sorted(found[:, 0, 0, 0].tolist()) == sorted(want)


def test_a_transparent_level_of_16_bits_is_laid_on_the_background(tmp_path):
    values = np.array([[1000, 65535], [0, 1000]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=1000)
    assert pixels.read(tmp_path / "a.png", 2, 1, 7)[..., 0].tolist() == [[7, 255], [0, 7]]
