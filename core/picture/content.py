"""Decides by its content whether a file is a picture, and of which format; finds the pictures of a folder."""

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

HEAD_BYTES: Final = 256  # enough for every pattern below
READ_FORMATS: Final = ("BMP", "GIF", "JPEG", "PNG", "PNM", "TIFF")
_FORMATS: Final = {
    name: re.compile(pattern, re.DOTALL)
    for name, pattern in {
        "JPEG": rb"\xff\xd8",
        "PNG": rb"\x89PNG",
        "BMP": rb"BM.{12}[\x0c-\xff]\0\0\0",  # the last four bytes: the size of the second header
        "TIFF": rb"II[*+]\0|MM\0[*+]",
        "GIF": rb"GIF8[79]a",
        "PNM": rb"P[1-6]\s+[#\d]",
        # Pictures that are not read. They are named, so that no part is passed over in silence. The first three have
        # no checksum, and their decoders replace damaged data without an error: parts of a crack would disappear.
        "WebP": rb"RIFF.{4}WEBP",
        "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
        "AVIF": rb".{4}ftyp(?:.{4}){0,9}avi[fs]",
        "HEIC": rb".{4}ftyp(?:he[iv]|m[is]f1)",
        "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
        "JPEG XR": rb"II\xbc",
        "camera raw": rb"IIR[OS]|MMOR|IIU\0|FUJIFILMCCD-RAW|.{4}ftypcrx",
        "DICOM": rb".{128}DICM",
        "FITS": rb"SIMPLE  =",
        "OpenEXR": rb"\x76\x2f\x31\x01",
        "PAM": rb"P7\s",
        "DDS": rb"DDS ",
        "DPX": rb"SDPX|XPDS|\x80\x2a\x5f\xd7",
        "icon": rb"\0\0[\x01\x02]\0[^\0]\0",
        "PCX": rb"\x0a[\0-\x05]\x01[\x01\x02\x04\x08]",
        "PFM": rb"P[FfHh]\s+\d",
        "Photoshop": rb"8BPS",
        "QOI": rb"qoif",
        "Radiance HDR": rb"#\?R",
        "SGI": rb"\x01\xda[\0\x01][\x01\x02]",
        "Sun raster": rb"\x59\xa6\x6a\x95",
    }.items()
}
# A file with such a name is a picture even if its content is not: it may be damaged.
_PICTURE_NAME: Final = re.compile(
    r".*\.(apng|arw|avif|bmp|bw|cr2|cr3|dcm|dds|dib|dng|dpx|exr|fits|gif|hdr|heic|heif|icb|ico|j2c|j2k|jfif|jif|jls"
    r"|jp2|jpc|jpe|jpeg|jpf|jpg|jps|jpx|jxl|jxr|jxs|mpo|nef|orf|pam|pbm|pct|pcx|pfm|pgm|pgx|phm|pict|png|pnm|ppm|psd"
    r"|qoi|raf|ras|raw|rgb|rgba|rw2|sgi|sun|tga|tif|tiff|vda|vst|wbmp|webp|xbm|xpm|xwd)",
    re.IGNORECASE | re.DOTALL,
)
TEMPORARY_SUFFIXES: Final = (".part", ".tmp", ".partial", ".crdownload", ".filepart", "~")


class FoundFiles(NamedTuple):
    """What a folder or pattern holds."""

    pictures: list[Path]  # sorted; with broken links and what cannot be read, which reading reports
    skipped: list[Path]  # sorted; not pictures, or temporary names of writers. Hidden files are in neither list

    @property
    def note(self) -> str:
        """One line about the skipped files; empty if there are none."""
        if not self.skipped:
            return ""
        if len(self.skipped) == 1:
            return f"1 file is not a picture and is skipped: {self.skipped[0]}"
        return f"{len(self.skipped)} files are not pictures and are skipped, for example {self.skipped[0]}"


def format_of(head: bytes) -> str | None:
    """The picture format whose signature the content begins with; None: not a picture. Takes `HEAD_BYTES`."""
    return next((name for name, pattern in _FORMATS.items() if pattern.match(head)), None)


def is_temporary(name: str) -> bool:
    """Whether a writer may give a file this name until it is complete: hidden, or with a suffix such as `.part`."""
    return name.startswith(".") or name.lower().endswith(TEMPORARY_SUFFIXES)


def is_picture(name: str, head: bytes) -> bool:
    """Whether a file's content, or else its name, is a picture's. `head`: its first `HEAD_BYTES`."""
    return _PICTURE_NAME.fullmatch(name) is not None or format_of(head) is not None


def is_picture_file(path: Path) -> bool:
    """Whether a file found in a folder is inspected: `is_picture`, and not `is_temporary`.

    A file that cannot be opened may be a picture; reading it reports the error.
    """
    if is_temporary(path.name):
        return False
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        if is_picture(path.name, b""):
            return True
        with path.open("rb") as file:
            return is_picture(path.name, file.read(HEAD_BYTES))
    except (FileNotFoundError, NotADirectoryError):  # a broken link, or a file that is gone
        return is_picture(path.name, b"")
    except OSError:
        return True


def sort_out(paths: Iterable[Path]) -> FoundFiles:
    """The pictures among files. Folders and hidden files are left out."""
    found = FoundFiles([], [])
    for path in sorted(paths):
        if is_picture_file(path):
            found.pictures.append(path)
        elif not path.is_dir() and not path.name.startswith("."):
            found.skipped.append(path)
    return found


def find_files(folder: Path) -> FoundFiles:
    """All pictures and other files below `folder`. Hidden folders are left out; links to folders are not followed.

    A folder that cannot be listed is in `pictures`: reading it raises ImageError, so it is reported.
    """
    paths: list[Path] = []
    unlisted: list[Path] = []

    def note_unlisted(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            unlisted.append(Path(error.filename))

    for parent, folders, names in os.walk(folder, onerror=note_unlisted):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(parent, name) for name in names]
    found = sort_out(paths)
    return FoundFiles(sorted(found.pictures + unlisted), found.skipped)


def find_images(folder: Path) -> list[Path]:
    """`find_files(folder).pictures`."""
    return find_files(folder).pictures
