"""Image files to grey images: what is read, what is repaired, what is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from radtransfer.artifacts import peak_mib
from radtransfer.errors import RadtransferError
from radtransfer.preprocess import decode as module
from radtransfer.preprocess.decode import decode
from radtransfer.preprocess.pixels import Decoded

RAMP = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (40, 1))  # 40 rows, 60 columns


def texture(height: int = 320, width: int = 240) -> np.ndarray:
    """Film with structure everywhere but in its lowest quarter."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (height // 8, width // 8)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    picture[height * 3 // 4 :] = 30
    return picture


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_plain_png_is_returned_as_it_is(tmp_path: Path) -> None:
    decoded = decode(saved(tmp_path / "a.png", Image.fromarray(RAMP)))
    assert decoded.flags == ()
    assert decoded.pixels.dtype == np.uint8
    np.testing.assert_array_equal(decoded.pixels, RAMP)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
def test_png_modes_give_luminance(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(np.where(RAMP > 120, 255, 0).astype(np.uint8) if mode == "1" else RAMP)
    decoded = decode(
        saved(tmp_path / "a.png", grey.convert("RGB").convert(mode) if mode == "P" else grey.convert(mode))
    )
    tolerance = 8 if mode == "P" else 1  # the palette is Pillow's web palette
    expected = np.asarray(grey.convert("P").convert("L")) if mode == "P" else np.asarray(grey)
    assert np.abs(decoded.pixels.astype(int) - expected).max() <= (60 if mode == "P" else tolerance)
    assert decoded.pixels.shape == RAMP.shape


def test_palette_of_greys_is_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(RAMP // 4, mode="P")
    image.putpalette([level for index in range(256) for level in [255 - (4 * index) % 256] * 3])
    decoded = decode(saved(tmp_path / "a.png", image))
    np.testing.assert_array_equal(decoded.pixels, 255 - RAMP)


def test_transparency_lies_on_black(tmp_path: Path) -> None:
    image = np.full((20, 20, 4), 200, dtype=np.uint8)
    image[..., 3] = 255
    image[:10, :, 3] = 0
    decoded = decode(saved(tmp_path / "a.png", Image.fromarray(image)))
    assert set(np.unique(decoded.pixels[:10])) == {0}
    assert set(np.unique(decoded.pixels[10:])) == {200}


def test_colour_is_flagged_and_becomes_luminance(tmp_path: Path) -> None:
    image = np.zeros((20, 20, 3), dtype=np.uint8)
    image[:10, :, 0] = 255
    decoded = decode(saved(tmp_path / "a.png", Image.fromarray(image)))
    assert "colour" in decoded.flags
    assert decoded.pixels[0, 0] == 76  # ITU-R 601: 0.299 * 255
    grey = decode(saved(tmp_path / "b.png", Image.fromarray(RAMP).convert("RGB")))
    assert "colour" not in grey.flags


def test_twelve_bit_values_in_sixteen_bits_fill_the_range(tmp_path: Path) -> None:
    deep = (np.linspace(100, 4000, 10_000).reshape(100, 100)).astype(np.uint16)
    deep[0, 0] = 65535  # one hot pixel
    decoded = decode(saved(tmp_path / "a.png", Image.fromarray(deep)))
    assert "16bit" in decoded.flags
    assert int(decoded.pixels[50, 50]) == pytest.approx(128, abs=3)
    assert decoded.pixels[99, 99] == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((48, 64), dtype=np.uint8)
    upright[4:20, 4:12] = 200  # a mark in the upper left corner
    turn = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 1, 7: 3, 8: 3}[orientation]
    stored = np.rot90(upright, turn)
    if orientation in (2, 4, 5, 7):
        stored = stored[:, ::-1] if orientation in (2, 4) else stored[::-1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.jpg", Image.fromarray(np.ascontiguousarray(stored)), exif=exif, quality=95)
    decoded = decode(path)
    assert decoded.pixels.shape == upright.shape
    assert np.abs(decoded.pixels.astype(int) - upright).mean() < 3
    assert ("exif_rotated" in decoded.flags) == (orientation != 1)


def test_damaged_exif_does_not_lose_the_image(tmp_path: Path) -> None:
    decoded = decode(saved(tmp_path / "a.png", Image.fromarray(RAMP), exif=b"neither II nor MM"))
    np.testing.assert_array_equal(decoded.pixels, RAMP)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.XResolution] = 72.0
    data = exif.tobytes().replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x02")  # a number said to be text
    decoded = decode(saved(tmp_path / "b.jpg", Image.fromarray(RAMP), exif=data))
    assert decoded.flags == ("exif_rotated",) and decoded.pixels.shape == RAMP.T.shape


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_that_lacks_its_end_is_repaired_and_flagged(tmp_path: Path, mode: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(texture()).convert(mode).save(buffer, "JPEG", quality=90)
    whole = decode_of(tmp_path, buffer.getvalue())
    cut = decode_of(tmp_path, buffer.getvalue()[:-14])
    assert cut.flags == ("truncated",)
    assert cut.pixels.shape == whole.pixels.shape
    same = (np.abs(cut.pixels.astype(int) - whole.pixels) <= 2).mean(axis=1)
    assert same[:280].min() == 1  # nothing above the last rows of blocks is touched
    assert (cut.pixels == 0).mean() <= module.MAX_LOST + 0.1
    assert set(np.unique(cut.pixels[-8:, -16:])) == {0}  # the lost part is black, not made up


def test_jpeg_that_lacks_much_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(texture()).save(buffer, "JPEG", quality=90)
    data = buffer.getvalue()
    with pytest.raises(RadtransferError, match=r"x\.jpg: truncated JPEG, \d+% of the image is lost"):
        decode_of(tmp_path, data[: len(data) * 2 // 3])
    buffer = io.BytesIO()
    Image.fromarray(texture()).save(buffer, "JPEG", quality=90, progressive=True)
    with pytest.raises(RadtransferError, match="progressive"):
        decode_of(tmp_path, buffer.getvalue()[:-200])


def test_jpeg_that_ends_in_black_is_not_taken_for_whole(tmp_path: Path) -> None:
    """The lost part is measured, not guessed from what the decoder fills it with."""
    picture = texture()
    picture[200:232] = 0
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=90)
    data = buffer.getvalue()
    whole = decode_of(tmp_path, data)
    for share in (0.9, 0.95, 0.97):
        cut = data[: int(len(data) * share)]
        try:
            decoded = decode_of(tmp_path, cut)
        except RadtransferError:
            continue
        differs = np.abs(decoded.pixels.astype(int) - whole.pixels) > 8
        assert differs.mean() <= module.MAX_LOST


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=600), st.integers(0, 3000))
def test_damaged_files_raise_only_our_error(tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    buffer = io.BytesIO()
    Image.fromarray(RAMP).save(buffer, "PNG" if at % 2 else "JPEG")
    data = buffer.getvalue()
    at = min(at, len(data))
    for damaged in (junk, data[:at], data[:at] + junk + data[at + len(junk) :]):
        try:
            decoded = decode_of(folder, damaged)
        except RadtransferError as error:
            assert "x.jpg" in str(error)
        else:
            assert decoded.pixels.ndim == 2


def test_huge_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    for side in (12_000, 60_000):
        data = png(side, side, zlib.compress(b"\0" * 100))
        with pytest.raises(RadtransferError, match="are decoded"):
            decode_of(tmp_path, data)


def test_images_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RadtransferError, match="every pixel is 7"):
        decode(saved(tmp_path / "a.png", Image.fromarray(np.full((9, 9), 7, dtype=np.uint8))))
    with pytest.raises(RadtransferError, match="empty file"):
        decode_of(tmp_path, b"")
    with pytest.raises(RadtransferError, match=r"gone\.png: no such file"):
        decode(tmp_path / "gone.png")


def test_text_under_an_image_name_and_a_single_pixel_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not an image at all")
    with pytest.raises(RadtransferError, match=r"a\.png: not a PNG, JPEG or DICOM file"):
        decode(tmp_path / "a.png")
    with pytest.raises(RadtransferError, match=r"b\.png: every pixel is 9; not an image of anything"):
        decode(saved(tmp_path / "b.png", Image.fromarray(np.array([[9]], dtype=np.uint8))))


def test_cmyk_becomes_luminance(tmp_path: Path) -> None:
    cmyk = Image.fromarray(RAMP).convert("RGB").convert("CMYK")
    decoded = decode(saved(tmp_path / "a.jpg", cmyk, quality=95))
    np.testing.assert_allclose(decoded.pixels.astype(int), RAMP, atol=3)


def test_of_animated_images_no_frame_is_lost_in_silence(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(RAMP, shift, axis=1)) for shift in (0, 9, 18)]
    several = {"save_all": True, "append_images": frames[1:]}
    with pytest.raises(
        RadtransferError, match=r"a\.png: animated PNG with 3 frames; give each image a file of its own"
    ):
        decode(saved(tmp_path / "a.png", frames[0], **several))
    with pytest.raises(RadtransferError, match=r"b\.png: not a PNG, JPEG or DICOM file"):
        decode(saved(tmp_path / "b.png", frames[0], format="GIF", **several))


def test_a_decompression_bomb_is_not_blown_up(tmp_path: Path) -> None:
    """Half a gigabyte behind a small header, as pixels and as a comment."""
    packer = zlib.compressobj(1)
    bomb = b"".join(packer.compress(bytes(1_000_000)) for _ in range(500)) + packer.flush()
    for name, comment, pixels in (("a", b"", bomb), ("b", b"note\0\0" + bomb, zlib.compress(bytes(40 * 61)))):
        (tmp_path / name).write_bytes(png(60, 40, pixels, comment))
        before = peak_mib()
        with pytest.raises(RadtransferError, match=r"every pixel is 0|header is damaged"):
            decode(tmp_path / name)
        assert peak_mib() - before < 50


def png(width: int, height: int, pixels: bytes, comment: bytes = b"") -> bytes:
    """A PNG of 8-bit grey whose packed pixels are what is given, whatever its header says."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    text = chunk(b"zTXt", comment) if comment else b""
    return b"\x89PNG\r\n\x1a\n" + head + text + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def decode_of(folder: Path, data: bytes) -> Decoded:
    path = folder / "x.jpg"
    path.write_bytes(data)
    return decode(path)
