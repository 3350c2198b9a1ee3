"""DICOM files: which are read, how they are shown, and that nothing of their tags gets out."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless, generate_uid

from radtransfer.artifacts import peak_mib
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.decode import decode, decode_bytes
from radtransfer.preprocess.pixels import Window


def dicom(path: Path, pixels: np.ndarray, syntax: UID = ExplicitVRLittleEndian, **tags: object) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.PatientName = "Secret^Name"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


TWELVE_BITS = {"BitsStored": 12, "HighBit": 11}
DEEP = np.tile(np.linspace(0, 4095, 200).astype(np.uint16), (150, 1))


def test_dicom_monochrome1_is_the_negative_of_monochrome2(tmp_path: Path) -> None:
    plain = decode(dicom(tmp_path / "a.dcm", DEEP))
    inverse = decode(dicom(tmp_path / "b.dcm", DEEP, PhotometricInterpretation="MONOCHROME1"))
    assert plain.pixels[0, 0] == 0 and plain.pixels[0, -1] == 255
    np.testing.assert_array_equal(inverse.pixels, 255 - plain.pixels)
    assert "inverted" in inverse.flags and "dicom" in plain.flags


def test_dicom_rescale_and_window_are_applied(tmp_path: Path) -> None:
    hounsfield = DEEP.astype(np.int16)
    decoded = decode(
        dicom(
            tmp_path / "a.dcm",
            hounsfield,
            RescaleSlope="1",
            RescaleIntercept="-1000",
            WindowCenter=["500", "40"],
            WindowWidth=["1000", "400"],
        )
    )
    values = hounsfield[0].astype(float) - 1000
    assert (decoded.pixels[0][values <= 0] == 0).all()
    assert (decoded.pixels[0][values >= 1000] == 255).all()
    middle = int(np.argmin(np.abs(values - 500)))
    assert int(decoded.pixels[0, middle]) == pytest.approx(128, abs=3)


LUNG = Window(-600, 1500)


def test_a_ct_window_counts_in_hounsfield_units_whatever_window_the_file_names(tmp_path: Path) -> None:
    scans = []
    for name, slope, intercept, centre in (("a", 1, -1024, 40), ("b", 2, -2048, 400)):
        stored = (DEEP.astype(np.int32) - intercept - 1024) // slope
        tags = {"Modality": "CT", "RescaleSlope": slope, "RescaleIntercept": intercept}
        tags |= {"WindowCenter": centre, "WindowWidth": 400}
        scans.append(dicom(tmp_path / f"{name}.dcm", stored.astype(np.int16), **tags))
    shown = [decode(scan, LUNG) for scan in scans]
    hounsfield = DEEP[0].astype(float) - 1024
    wanted = np.clip((hounsfield + 1350) / 1500, 0, 1) * 255
    for one in shown:
        assert np.abs(one.pixels[0] - wanted).max() < 1 and "hounsfield" in one.flags
    own = [decode(scan) for scan in scans]
    assert np.abs(own[0].pixels.astype(int) - own[1].pixels).max() > 100 and "hounsfield" not in own[0].flags


def test_a_ct_window_is_for_ct_alone(tmp_path: Path) -> None:
    radiograph = dicom(tmp_path / "x.dcm", DEEP, Modality="DX", RescaleSlope=1, RescaleIntercept=-1024)
    np.testing.assert_array_equal(decode(radiograph, LUNG).pixels, decode(radiograph).pixels)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({}, "CT without rescale slope and intercept to Hounsfield units, so no CT window"),
        ({"RescaleSlope": 1}, "CT without rescale slope and intercept"),
        ({"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "US"}, r"CT whose RescaleType is not HU \(Hounsf"),
    ],
)
def test_ct_that_is_not_in_hounsfield_units_is_refused(tmp_path: Path, tags: dict[str, object], reason: str) -> None:
    scan = dicom(tmp_path / "a.dcm", DEEP, Modality="CT", **tags)
    assert decode(scan).flags == ("dicom",)
    with pytest.raises(RadtransferError, match=reason) as raised:
        decode(scan, LUNG)
    assert "Secret" not in str(raised.value)


@pytest.mark.parametrize("values", [[40], [40, 0], [40, -5], [40, float("nan")], [1, 2, 3]])
def test_a_window_has_a_centre_and_a_positive_width(values: list[float]) -> None:
    with pytest.raises(RadtransferError, match="CT window"):
        Window.of(values)


def test_dicom_bits_above_those_stored_are_dropped(tmp_path: Path) -> None:
    clean = decode(dicom(tmp_path / "a.dcm", DEEP, BitsStored=12, HighBit=11))
    overlaid = decode(dicom(tmp_path / "b.dcm", DEEP | np.uint16(0x8000), BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(clean.pixels, overlaid.pixels)
    signed = (DEEP.astype(np.int16) - 2048) & np.int16(0x0FFF)
    shifted = decode(dicom(tmp_path / "c.dcm", signed, BitsStored=12, HighBit=11))
    np.testing.assert_allclose(shifted.pixels, clean.pixels, atol=1)


@pytest.mark.parametrize(
    ("pixels", "padding", "tags"),
    [
        (DEEP, 4095, {"PixelPaddingValue": 4095} | TWELVE_BITS),
        (DEEP, 65535, {"PixelPaddingValue": 65535}),
        (DEEP.astype(np.int16) - 1024, -2000, {"PixelPaddingValue": -2000}),
        (DEEP.astype(np.int16) - 1024, -2000, {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1990}),
        (DEEP + np.uint16(9), 5, {"PixelPaddingValue": 8, "PixelPaddingRangeLimit": 0} | TWELVE_BITS),
    ],
)
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1000, "WindowWidth": 2000}])
def test_padding_is_black_and_sets_no_contrast(
    tmp_path: Path, pixels: np.ndarray, padding: int, tags: dict[str, object], window: dict[str, object]
) -> None:
    padded = pixels.copy()
    padded[:, 150:] = padding
    for kind in ("MONOCHROME1", "MONOCHROME2"):
        more = window | {"PhotometricInterpretation": kind}
        decoded = decode(dicom(tmp_path / "a.dcm", padded, **tags, **more))
        alone = decode(dicom(tmp_path / "b.dcm", pixels[:, :150].copy(), **tags | more))
        np.testing.assert_array_equal(decoded.pixels[:, :150], alone.pixels)
        assert not decoded.pixels[:, 150:].any()


def test_pixels_that_are_not_square_are_made_so(tmp_path: Path) -> None:
    grey = np.kron(np.array([[0, 4095], [4095, 0]], np.uint16), np.ones((30, 40), np.uint16))
    for ratio, shape in (([2, 1], (120, 80)), ([3, 4], (60, 107)), ([1, 1], (60, 80)), ([5, 5], (60, 80))):
        stretched = decode(dicom(tmp_path / "a.dcm", grey, PixelAspectRatio=ratio)).pixels
        assert stretched.shape == shape
        assert stretched[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [0, 255, 255, 0]
    for ratio in ([0, 1], [-1, 2], [1, 10**6], [3]):
        with pytest.raises(RadtransferError, match=r"a\.dcm: DICOM pixels cannot be decoded"):
            decode(dicom(tmp_path / "a.dcm", grey, PixelAspectRatio=ratio))


def test_an_image_that_is_all_padding_is_an_image_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(RadtransferError, match="every pixel is 0"):
        decode(dicom(tmp_path / "a.dcm", np.full_like(DEEP, 7), PixelPaddingValue=7))


def test_dicom_that_cannot_be_used_is_refused_without_its_tags(tmp_path: Path) -> None:
    frames = np.stack([DEEP, DEEP])
    damaged = dicom(tmp_path / "cut.dcm", DEEP)
    damaged.write_bytes(damaged.read_bytes()[:-5000])
    cases = {
        dicom(tmp_path / "frames.dcm", frames, NumberOfFrames="2"): "2 frames",
        dicom(tmp_path / "large.dcm", DEEP, Rows=65535, Columns=65535): "are decoded",
        dicom(tmp_path / "odd.dcm", DEEP, PhotometricInterpretation="PALETTE COLOR"): "photometric",
        damaged: "cannot be decoded",
    }
    for path, words in cases.items():
        with pytest.raises(RadtransferError, match=words) as caught:
            decode(path)
        assert path.name in str(caught.value)
        assert "Secret" not in str(caught.value)


def edited(path: Path, **tags: object) -> Path:
    """The DICOM file with tags changed, or with None removed, past all checks."""
    dataset = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        elif name == "TransferSyntaxUID":
            dataset.file_meta.TransferSyntaxUID = value
            dataset.PixelData = encapsulate([b"Secret" * 20])
            dataset["PixelData"].is_undefined_length = True
        elif isinstance(value, bytes):
            dataset[name] = RawDataElement(dataset[name].tag, "DS", len(value), value, 0, False, True)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=False, implicit_vr=False, little_endian=True)
    return path


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"PixelData": None}, "without pixel data; give image files"),
        ({"BitsStored": 0}, "BitsStored is missing, or not between 1 and BitsAllocated; export it anew"),
        ({"BitsStored": 17}, "BitsStored is missing, or not between"),
        ({"BitsStored": 65535}, "BitsStored is missing, or not between"),
        ({"BitsStored": None}, "BitsStored is missing, or not between"),
        ({"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11}, "pixels cannot be decoded"),
        ({"BitsStored": 12}, "HighBit is not BitsStored - 1; export it anew"),
        ({"PixelRepresentation": None}, r"PixelRepresentation \(0: unsigned, 1: signed\) is missing; export it anew"),
        ({"TransferSyntaxUID": "1.2.840.10008.1.2.4.100"}, "transfer syntax that cannot be decoded here; export it"),
        ({"TransferSyntaxUID": "1.2.840.113619.5.2.77"}, "transfer syntax that cannot be decoded here"),
        ({"TransferSyntaxUID": "1.2.840.10008.1.2.4.90"}, "pixels cannot be decoded"),
        ({"RescaleSlope": b"Secret"}, "damaged DICOM file"),
        ({"Rows": None}, "0 pixels; between 1 and"),
    ],
)
def test_dicom_that_cannot_be_decoded_says_why(tmp_path: Path, tags: dict[str, object], reason: str) -> None:
    scan = dicom(tmp_path / "a.dcm", DEEP, Modality="CT", RescaleSlope=1, RescaleIntercept=0)
    with pytest.raises(RadtransferError, match=rf"a\.dcm: .*{reason}") as refused:
        decode(edited(scan, **tags), LUNG)
    assert "Secret" not in str(refused.value) and "113619" not in str(refused.value)


@pytest.mark.parametrize(("value", "flagged"), [("YES", True), ("NO", False), ("yes ", True), ("", False)])
def test_text_that_the_header_says_is_burnt_in_is_flagged(tmp_path: Path, value: str, flagged: bool) -> None:
    decoded = decode(dicom(tmp_path / "a.dcm", DEEP, BurnedInAnnotation=value))
    assert ("burnt_in_text" in decoded.flags) == flagged


ENCODERS = {
    uid.JPEGLosslessSV1: lambda grey: imagecodecs.jpeg8_encode(grey, lossless=True, predictor=1, bitspersample=12),
    uid.JPEGLossless: lambda grey: imagecodecs.jpeg8_encode(grey, lossless=True, predictor=6, bitspersample=12),
    uid.JPEGExtended12Bit: lambda grey: imagecodecs.jpeg8_encode(grey, level=100, bitspersample=12),
    uid.JPEGLSLossless: imagecodecs.jpegls_encode,
    uid.JPEGLSNearLossless: lambda grey: imagecodecs.jpegls_encode(grey, level=2),
    uid.HTJ2KLossless: lambda grey: imagecodecs.htj2k_encode(grey, reversible=True),
}


def packed(path: Path, grey: np.ndarray, syntax: UID, **tags: object) -> Path:
    """A DICOM file of 12-bit grey in a transfer syntax that pydicom alone cannot decode."""
    return dicom(path, grey, syntax, PixelData=encapsulate([ENCODERS[syntax](grey)]), **TWELVE_BITS | tags)


@pytest.mark.parametrize("syntax", ENCODERS, ids=lambda syntax: syntax.name)
def test_packed_dicom_is_decoded(tmp_path: Path, syntax: UID) -> None:
    plain = decode(dicom(tmp_path / "a.dcm", DEEP, **TWELVE_BITS))
    np.testing.assert_allclose(decode(packed(tmp_path / "b.dcm", DEEP, syntax)).pixels, plain.pixels, atol=1)
    if syntax not in (uid.JPEGExtended12Bit, uid.JPEGLSNearLossless):  # what is lossy may lose the sign
        signed = ((DEEP.astype(np.int16) - 2048) & np.int16(0x0FFF)).view(np.uint16)
        path = packed(tmp_path / "c.dcm", signed, syntax, PixelRepresentation=1)
        np.testing.assert_allclose(decode(path).pixels, plain.pixels, atol=1)


@pytest.mark.parametrize(
    ("file", "plain"),
    [("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"), ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle.dcm")],
)
def test_what_other_programs_packed_is_decoded(file: str, plain: str) -> None:
    """A JPEG-LS file, and a JPEG Lossless one in colour by GDCM, that come with pydicom."""
    one, other = (decode(Path(str(get_testdata_file(name, download=False)))) for name in (file, plain))
    np.testing.assert_array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("syntax", ENCODERS, ids=lambda syntax: syntax.name)
def test_packed_dicom_of_another_size_than_it_says_is_refused(
    tmp_path: Path, syntax: UID, caplog: pytest.LogCaptureFixture
) -> None:
    cut = encapsulate([ENCODERS[syntax](DEEP)[:-40]])
    for tags in ({"Rows": 20_000, "Columns": 4_000}, {"Columns": 199}, {"PixelData": cut}):
        path = dicom(
            tmp_path / "a.dcm",
            DEEP,
            syntax,
            **TWELVE_BITS | {"PixelData": encapsulate([ENCODERS[syntax](DEEP)])} | tags,
        )
        before = peak_mib()
        with pytest.raises(RadtransferError, match=r"a\.dcm: DICOM pixels cannot be decoded \(RuntimeError\)$"):
            decode(path)
        assert peak_mib() - before < 50
    assert not caplog.records


@pytest.fixture(scope="module")
def whole_dicoms(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Files with all that the decoder looks at, each in another transfer syntax."""
    folder = tmp_path_factory.mktemp("whole")
    small = DEEP[::8, ::8].copy()
    tags = {"WindowCenter": 2000, "WindowWidth": 3000, "RescaleSlope": 1, "RescaleIntercept": -1024, "Modality": "CT"}
    plain = dicom(folder / "a.dcm", small, BitsStored=12, HighBit=11, NumberOfFrames=1, **tags)
    deflated = dicom(folder / "b.dcm", small, DeflatedExplicitVRLittleEndian, **tags)
    run_length = pydicom.dcmread(plain)
    run_length.compress(RLELossless)
    run_length.save_as(folder / "c.dcm")
    others = [packed(folder / syntax, small, syntax, **tags) for syntax in ENCODERS]
    return [path.read_bytes() for path in (plain, deflated, folder / "c.dcm", *others)]


MUTATION = st.tuples(
    st.floats(0, 1, exclude_max=True), st.sampled_from(["set", "cut", "drop", "double"]), st.binary(max_size=6)
)


@settings(max_examples=800, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    which=st.integers(0, 2 + len(ENCODERS)), mutations=st.lists(MUTATION, min_size=1, max_size=3), header=st.booleans()
)
def test_mutated_dicom_is_read_or_refused(
    whole_dicoms: list[bytes], which: int, mutations: list[tuple[float, str, bytes]], header: bool
) -> None:
    """Valid files with bytes set, dropped, doubled or cut off: an image or our error, in bounded time and memory."""
    data = whole_dicoms[which]
    for where, how, junk in mutations:
        at = 132 + int(where * ((900 if header else len(data)) - 132))
        tail = {"set": data[at + len(junk) :], "cut": b"", "drop": data[at + 7 :], "double": data[at - 40 :]}[how]
        data = data[:at] + junk + tail
    tracemalloc.start()
    try:
        decoded = decode_bytes(data, Path("x.dcm"), LUNG)
    except RadtransferError as error:
        assert str(error).startswith("x.dcm: ") and "Secret" not in str(error)
    else:
        assert decoded.pixels.dtype == np.uint8 and decoded.pixels.ndim == 2
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 100_000_000


def test_dicom_colour_becomes_luminance_at_any_depth(tmp_path: Path) -> None:
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (40, 1))
    for depth, grey in ((8, ramp), (12, DEEP), (16, DEEP * np.uint16(16))):
        pixels = np.stack([grey] * 3, axis=-1)
        tags = {"Rows": grey.shape[0], "Columns": grey.shape[1], "BitsStored": depth, "HighBit": depth - 1}
        decoded = decode(dicom(tmp_path / f"{depth}.dcm", pixels, **colour, **tags))
        expected = grey if depth == 8 else decode(dicom(tmp_path / f"grey{depth}.dcm", grey)).pixels
        np.testing.assert_allclose(decoded.pixels.astype(int), expected, atol=1)
        assert "colour" not in decoded.flags  # a grey image in three channels, as in PNG and JPEG files
        pixels[..., 0] //= 2
        assert "colour" in decode(dicom(tmp_path / f"tinted{depth}.dcm", pixels, **colour, **tags)).flags


def test_no_tag_reaches_warnings_or_logs(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    path = dicom(tmp_path / "a.dcm", DEEP, SpecificCharacterSet="ISO_IR 100", NumberOfFrames="1 ")
    data = path.read_bytes().replace(b"ISO_IR 100", b"SecretName")
    path.write_bytes(data)
    assert decode(path).flags == ("dicom",)
    path.write_bytes(data.replace(b"IS\x02\x001 ", b"IS\x02\x00S^"))
    with pytest.raises(RadtransferError, match=r"a\.dcm: damaged DICOM file \(\w+\)$"):
        decode(path)
    assert not recwarn.list and not caplog.records


def test_deflated_dicom_is_read_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kB can inflate to any size: what is held in memory stays near the bound, not near what it claims to be."""
    plain = decode(dicom(tmp_path / "a.dcm", DEEP))
    deflated = decode(dicom(tmp_path / "b.dcm", DEEP, DeflatedExplicitVRLittleEndian))
    np.testing.assert_array_equal(plain.pixels, deflated.pixels)
    huge = dicom(tmp_path / "c.dcm", DEEP, DeflatedExplicitVRLittleEndian, PixelData=bytes(100_000_000))
    monkeypatch.setattr("radtransfer.preprocess.dicom.MAX_BYTES", 10_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(RadtransferError, match=r"c\.dcm: DICOM file that inflates to more than"):
            decode(huge)
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


def test_rle_is_read_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = (DEEP // 16).astype(np.uint8)
    rows = b"".join(bytes([127]) + row[:128].tobytes() + bytes([71]) + row[128:].tobytes() for row in grey)
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + rows
    path = dicom(tmp_path / "a.dcm", grey, RLELossless, PixelData=encapsulate([frame]))
    np.testing.assert_array_equal(decode(path).pixels, decode(dicom(tmp_path / "b.dcm", grey)).pixels)
    monkeypatch.setattr("radtransfer.preprocess.dicom.MAX_RLE_BYTES", len(frame) - 1)
    with pytest.raises(RadtransferError, match=r"a\.dcm: \d+ bytes of RLE; at most \d+ are decoded"):
        decode(path)
