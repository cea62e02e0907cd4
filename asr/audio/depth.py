"""The bits of a sample of lossless recordings, which the sample format of FFmpeg's decoders does not tell."""

from __future__ import annotations


def bits_of(codec: str, extradata: bytes, packet: bytes, sample_format: str) -> int:
    """Bits of a sample.

    Args:
        codec: FFmpeg's name of it.
        extradata: what the container says of the codec.
        packet: the start of the first one.
        sample_format: what the decoder gives: FFmpeg puts 24 bits into 32.
    """
    if codec == "alac" and len(extradata) > 17:  # an atom of 12 bytes and ALACSpecificConfig: bitDepth is its sixth
        return extradata[17]
    if codec == "flac" and len(extradata) >= 34:  # STREAMINFO (RFC 9639, section 8.2)
        return ((extradata[12] & 1) << 4 | extradata[13] >> 4) + 1
    if codec == "wavpack" and packet[:4] == b"wvpk":  # flags of a block: bytes of a sample, less one
        return 8 * (packet[24] % 4 + 1)
    return {"u8": 8, "s16": 16, "s32": 24, "flt": 32, "dbl": 64}.get(sample_format.removesuffix("p"), 16)
