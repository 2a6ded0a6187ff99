"""Pictures as people have them become upright RGB pixels, or are said to be damaged."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distaug.data.decode import DamagedPicture, Slice, decode, eval_view, load, train_view

LIMIT = 1_000_000
Noise = Callable[..., np.ndarray]


def encoded(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["png", "bmp", "webp", "tiff"])
def test_rgb_comes_back_exactly(kind: str, noise: Noise) -> None:
    picture = noise(5, 7, 0)
    options = {"lossless": True} if kind == "webp" else {}
    assert np.array_equal(decode(encoded(Image.fromarray(picture), kind, **options), LIMIT), picture)


# What a camera stores so that turning it by the EXIF tag gives the upright picture.
STORED = {
    1: lambda im: im,
    2: lambda im: im.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda im: im.transpose(Image.Transpose.ROTATE_180),
    4: lambda im: im.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda im: im.transpose(Image.Transpose.TRANSPOSE),
    6: lambda im: im.transpose(Image.Transpose.ROTATE_90),
    7: lambda im: im.transpose(Image.Transpose.TRANSVERSE),
    8: lambda im: im.transpose(Image.Transpose.ROTATE_270),
}


@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(orientation: int, kind: str, noise: Noise) -> None:
    upright = noise(6, 4, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = STORED[orientation](Image.fromarray(upright))
    options = {"lossless": True} if kind == "webp" else {}
    assert np.array_equal(decode(encoded(stored, kind, exif=exif, **options), LIMIT), upright)


def test_jpeg_orientation_is_applied() -> None:
    upright = np.zeros((32, 16, 3), np.uint8)
    upright[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    decoded = decode(encoded(stored, "jpeg", exif=exif, quality=95), LIMIT)
    assert decoded.shape == (32, 16, 3)
    assert np.abs(decoded.astype(int) - upright).max() < 10


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_sound_pixels_with_damaged_exif_are_kept(noise: Noise) -> None:
    picture = noise(4, 4, 2)
    data = encoded(Image.fromarray(picture), "png", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert np.array_equal(decode(data, LIMIT), picture)


def test_sixteen_bit_grey_is_scaled_not_cut_off() -> None:
    values = np.array([[0, 128, 257, 25700], [32768, 65278, 65406, 65535]], np.uint16)
    decoded = decode(encoded(Image.fromarray(values)), LIMIT)
    assert decoded[..., 0].tolist() == [[0, 0, 1, 100], [128, 254, 254, 255]]
    assert (decoded == decoded[..., :1]).all()


def test_sixteen_bit_tiff_in_either_byte_order_and_pgm() -> None:
    values = np.array([[0, 65535, 25700]], np.uint16)
    big_endian = Image.frombytes("I;16B", (3, 1), values.astype(">u2").tobytes())
    assert decode(encoded(big_endian, "tiff"), LIMIT)[0, :, 0].tolist() == [0, 255, 100]
    pgm = b"P5 3 1 65535\n" + values.astype(">u2").tobytes()
    assert decode(pgm, LIMIT)[0, :, 0].tolist() == [0, 255, 100]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_brightness_without_a_fixed_range_is_damaged(mode: str) -> None:
    picture = Image.fromarray(np.array([[0.5, 1e6]], np.float32 if mode == "F" else np.int32))
    with pytest.raises(DamagedPicture, match=f"mode {mode} has no fixed range"):
        decode(encoded(picture, "tiff"), LIMIT)


def test_grey_and_black_and_white_fill_all_channels() -> None:
    assert decode(encoded(Image.new("L", (2, 2), 77)), LIMIT).tolist() == [[[77] * 3] * 2] * 2
    assert decode(encoded(Image.new("1", (2, 2), 1)), LIMIT).tolist() == [[[255] * 3] * 2] * 2


def test_palette_picture_gets_its_colours() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    assert decode(encoded(picture), LIMIT).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert decode(encoded(picture, transparency=0), LIMIT).tolist() == [[[255] * 3, [200, 100, 50]]]
    assert decode(encoded(picture, "gif"), LIMIT).tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_cmyk_becomes_rgb() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    for kind in ("tiff", "jpeg"):
        decoded = decode(encoded(red, kind), LIMIT).astype(int)
        assert np.abs(decoded - [255, 0, 0]).max() < 6


def test_transparent_parts_show_white() -> None:
    picture = Image.new("RGBA", (3, 1), (200, 0, 0, 255))
    picture.putpixel((1, 0), (200, 0, 0, 0))
    picture.putpixel((2, 0), (0, 0, 0, 128))
    assert decode(encoded(picture), LIMIT).tolist() == [[[200, 0, 0], [255, 255, 255], [127, 127, 127]]]
    grey = Image.new("LA", (2, 1), (40, 255))
    grey.putpixel((1, 0), (40, 0))
    assert decode(encoded(grey), LIMIT).tolist() == [[[40] * 3, [255] * 3]]
    keyed = Image.new("RGB", (1, 1), (1, 2, 3))
    assert decode(encoded(keyed, transparency=(1, 2, 3)), LIMIT).tolist() == [[[255] * 3]]


def test_first_frame_of_an_animation(noise: Noise) -> None:
    frames = [Image.fromarray(noise(4, 4, i)) for i in range(2)]
    data = encoded(frames[0], "png", save_all=True, append_images=frames[1:])
    assert np.array_equal(decode(data, LIMIT), np.asarray(frames[0]))


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "tiff"])
def test_truncated_picture_is_damaged(kind: str, noise: Noise) -> None:
    data = encoded(Image.fromarray(noise(64, 64, 3)), kind)
    with pytest.raises(DamagedPicture):
        decode(data[: len(data) * 2 // 3], LIMIT)


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\xff\xd8\xff\xe0" + bytes(100)])
def test_foreign_bytes_are_damaged_and_say_so_without_addresses(data: bytes) -> None:
    with pytest.raises(DamagedPicture) as caught:
        decode(data, LIMIT)
    assert "0x" not in str(caught.value)


def test_missing_file_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(DamagedPicture, match="FileNotFound"):
        decode(tmp_path / "gone.png", LIMIT)
    with pytest.raises(DamagedPicture, match="cannot be read"):
        load(Slice(str(tmp_path / "gone.bin"), 0, 10), LIMIT)


def png_header(width: int, height: int) -> bytes:
    head = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(head)) + b"IHDR" + head
    data = struct.pack(">I", 10) + b"IDAT" + bytes(10) + struct.pack(">I", 0)
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + data


def test_too_many_pixels_are_refused_by_the_header() -> None:
    with pytest.raises(DamagedPicture, match=r"2000x501 is 1002000 pixels, more than data.max_pixels = 1000000"):
        decode(png_header(2000, 501), LIMIT)
    with pytest.raises(DamagedPicture):
        decode(png_header(60_000, 60_000), LIMIT)


def test_slice_of_a_file_is_decoded(tmp_path: Path, noise: Noise) -> None:
    picture = noise(4, 5, 4)
    data = encoded(Image.fromarray(picture))
    (tmp_path / "all.bin").write_bytes(b"before" + data + b"after")
    assert np.array_equal(load(Slice(str(tmp_path / "all.bin"), 6, len(data)), LIMIT), picture)


def test_grey_array_is_spread_over_three_channels() -> None:
    assert load(np.array([[1, 2]], np.uint8), LIMIT).tolist() == [[[1] * 3, [2] * 3]]


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (40, 40)])
def test_eval_view_is_the_centre(height: int, width: int) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    picture[height // 2 - 10 : height // 2 + 10, width // 2 - 10 : width // 2 + 10] = 255
    view = eval_view(picture, 28)  # the centre 35x35 of the shorter side's 40, the white part 20 of them
    assert view.shape == (28, 28, 3)
    assert view[14, 14].tolist() == [255] * 3
    white = (view[..., 0] > 127).sum()
    assert abs(white - 16 * 16) <= 33


def test_eval_view_may_keep_everything_and_touches_nothing_that_fits(noise: Noise) -> None:
    picture = noise(8, 8, 5)
    assert np.array_equal(eval_view(picture, 8, share=1), picture)
    wide = noise(8, 12, 5)
    assert np.array_equal(eval_view(wide, 8, share=1), wide[:, 2:10])


def test_scaling_down_averages_instead_of_picking() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(eval_view(stripes, 8, share=1)[2:-2, 2:-2].astype(int) - 127).max() < 8


def test_train_view_takes_area_ratio_and_place_from_its_draws() -> None:
    ramp = np.zeros((100, 100, 3), np.uint8)
    ramp[..., 0] = np.arange(100)[None, :]
    ramp[..., 1] = np.arange(100)[:, None]
    # The smallest area (8 %) at ratio 1 is 28 pixels wide and high; the last two draws move it.
    top_left = train_view(ramp, 28, [0.0, 0.5, 0.0, 0.0])
    assert np.array_equal(top_left, ramp[:28, :28])
    moved = train_view(ramp, 28, [0.0, 0.5, 0.5, 0.999])
    assert np.array_equal(moved, ramp[72:, 36:64])
    whole = train_view(ramp, 100, [0.9999999, 0.5, 0.3, 0.3])
    assert np.array_equal(whole, ramp)
    wide = train_view(ramp, 28, [0.5, 0.999, 0.0, 0.0])  # 54 % at 4:3 is 85 by 64
    assert wide[..., 0].max() > 80 > 68 > wide[..., 1].max()


def test_train_view_fits_any_picture() -> None:
    for height, width in [(1, 1), (1, 50), (50, 1), (3, 200)]:
        for u in (0.0, 0.5, 0.9999999):
            assert train_view(np.zeros((height, width, 3), np.uint8), 16, [u] * 4).shape == (16, 16, 3)
