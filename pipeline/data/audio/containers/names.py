"""Which file names are taken to be audio."""

from __future__ import annotations

from pathlib import PurePosixPath

AUDIO_SUFFIXES = frozenset(
    {
        # PCM and its like
        *(".wav", ".wave", ".bwf", ".rf64", ".bw64", ".w64", ".aiff", ".aif", ".aifc", ".aiffc", ".afc"),
        *(".au", ".snd", ".caf", ".nist", ".sph", ".voc", ".ircam", ".sf", ".avr", ".paf"),
        *(".fap", ".pvf", ".wve"),
        *(".8svx", ".16sv", ".svx"),
        # lossless codecs
        *(".flac", ".ape", ".wv", ".tta", ".tak", ".shn", ".ofr", ".dsf", ".dff", ".mlp", ".thd"),
        # MPEG audio and AAC
        *(".mp3", ".mp2", ".mp1", ".mpa", ".mpga", ".m2a", ".aac", ".adts", ".loas", ".latm"),
        # Xiph
        *(".ogg", ".oga", ".ogx", ".ogv", ".opus", ".spx"),
        # MP4, QuickTime, Matroska, and other containers of sound and picture
        *(".m4a", ".m4b", ".m4r", ".m4p", ".m4v", ".mp4", ".f4a", ".f4v", ".mov", ".qt", ".3gp"),
        *(".3gpp", ".3g2", ".3ga"),
        *(".webm", ".weba", ".mka", ".mkv", ".avi", ".flv", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".vob"),
        # Windows Media and RealAudio
        *(".wma", ".wmv", ".asf", ".xwma", ".ra", ".ram", ".rm", ".rmvb"),
        # telephony and speech codecs; those without a header are refused, and so told as a loss
        *(".amr", ".awb", ".gsm", ".g722", ".g723", ".g726", ".g729", ".ilbc", ".lbc", ".qcp"),
        *(".vox", ".sln", ".dss"),
        *(".alaw", ".ulaw", ".mulaw", ".lc3", ".sbc"),
        # cinema, disc and other codecs
        *(".ac3", ".eac3", ".ec3", ".ac4", ".dts", ".dtshd", ".mpc", ".mpp", ".mp+", ".oma"),
        *(".aa3", ".at3", ".qoa"),
    }
)
"""File name suffixes, in lower case, that are taken to be audio: all that libsndfile or FFmpeg reads.

Left out are names that are usually something else in a corpus: `.raw`, `.pcm` and `.bin` (numbers of any kind, without
a header), `.dat`, `.mat`, `.htk`, `.txt`, `.iff` (pictures), `.sd2` (its header is in a resource fork), and `.mid`.
"""


def is_audio_name(path: str) -> bool:
    """Whether a file name has an audio suffix."""
    return PurePosixPath(path).suffix.lower() in AUDIO_SUFFIXES
