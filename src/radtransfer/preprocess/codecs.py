"""DICOM pixels that pydicom does not decode by itself: JPEG Lossless, 12-bit JPEG, JPEG-LS, High-Throughput JPEG 2000.

Importing this module makes imagecodecs (libjpeg-turbo, CharLS, OpenJPEG) a plug-in of pydicom for these alone. GDCM,
pydicom's usual plug-in for them, ends the process on some damaged files, and so a run that meets one.
"""

from __future__ import annotations

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder

NAME = "imagecodecs"
DECODER_DEPENDENCIES = {
    uid.JPEGExtended12Bit: (NAME,),
    uid.JPEGLossless: (NAME,),
    uid.JPEGLosslessSV1: (NAME,),
    uid.JPEGLSLossless: (NAME,),
    uid.JPEGLSNearLossless: (NAME,),
    uid.HTJ2KLossless: (NAME,),
    uid.HTJ2KLosslessRPCL: (NAME,),
    uid.HTJ2K: (NAME,),
}
"""What this module decodes; pydicom asks for it under this name."""


def is_available(syntax: str) -> bool:
    """Whether a transfer syntax is decoded here."""
    return syntax in DECODER_DEPENDENCIES


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Samples of an encoded frame, pixel by pixel.

    Raises:
        ValueError: it is damaged, or not of the size and depth that the header says, which bound what is allocated.
    """
    if not source.rstrip(b"\0").endswith(
        b"\xff\xd9"
    ):  # libjpeg would make up the rest, CharLS looks for it for seconds
        raise ValueError("a frame without its end")
    pixels = np.empty((runner.rows, runner.columns), np.uint8 if runner.bits_stored <= 8 else np.uint16)
    if runner.samples_per_pixel > 1:
        pixels = np.repeat(pixels[..., None], runner.samples_per_pixel, axis=2)
        runner.set_option("planar_configuration", 0)
    if runner.transfer_syntax in uid.JPEGLSTransferSyntaxes:
        imagecodecs.jpegls_decode(source, out=pixels)
    elif runner.transfer_syntax in uid.JPEG2000TransferSyntaxes:
        imagecodecs.jpeg2k_decode(source, out=pixels)
    else:
        imagecodecs.jpeg8_decode(source, out=pixels)
    runner.set_option("bits_allocated", 8 * pixels.itemsize)
    return pixels.tobytes()


for _syntax in DECODER_DEPENDENCIES:
    get_decoder(_syntax).add_plugin(NAME, (__name__, decode_frame.__name__))
