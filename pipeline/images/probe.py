"""Probe images that show if this machine computes the same pixels as the planner of a store.

Version numbers are not enough: Pillow and Pillow-SIMD of one version resize differently, and two
builds of one Pillow may contain two versions of libjpeg-turbo. So a few small images are decoded
and resized by the code that processes data sets, and digests of the resulting pixels are
compared.
"""

import base64
import contextlib
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import xxhash
from PIL import Image, __version__, features

from pipeline.errors import DecodeError
from pipeline.images.decode import RULES, Decoded, decode
from pipeline.images.rejection import STATUS_WORDS
from pipeline.images.resize import resize

SIZES = (72, 224, 288)


@dataclass(frozen=True)
class Probe:
    """The digests of the probe images on this machine."""

    decoder: str
    """The digest (xxh3, 128 bits, hexadecimal) of the decoded probe images."""
    resizer: str
    """The digest of synthetic pixels that were resized with one filter."""


def probe(filter: str, *, rules: int = RULES) -> Probe:
    """Decode and resize the probe images, in about 30 ms.

    Args:
        filter: The resampling filter, one of `pipeline.images.resize.FILTERS`.
        rules: The version of the decoding rules, from the store's recipe (default: the newest).
    """
    return Probe(decoder=_decoder_digest(rules), resizer=_resizer_digest(filter))


def description() -> dict[str, str]:
    """Return the names and versions of the decoder and the resizer behind the digests."""
    decoders = [f"Pillow {__version__} ({', '.join(_library_versions())})"]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        decoders.insert(0, f"simplejpeg {importlib.metadata.version('simplejpeg')}")
    simd = simd_of_pillow()
    resizer = f"Pillow {__version__}" if simd == "none" else f"Pillow-SIMD {__version__}, {simd}"
    return {"decoder": " and ".join(decoders), "resizer": resizer}


def simd_of_pillow() -> str:
    """Return the vector instructions of the installed Pillow: "AVX2", "SSE4" or "none".

    They are found in the compiled code, because versions and compiler flags may be misleading. The
    resampling of Pillow-SIMD multiplies with `pmaddwd`, which compilers do not generate for stock
    Pillow. A library built with AVX2 contains its 256-bit form 63 times, and one built without
    contains the old form 204 times. Stock Pillow contains neither, except for two or three chance
    matches.
    """
    spec = importlib.util.find_spec("PIL._imaging")
    code = Path(spec.origin).read_bytes() if spec is not None and spec.origin else b""
    if len(_VPMADDWD_YMM.findall(code)) > 16:
        return "AVX2"
    return "SSE4" if len(_PMADDWD_XMM.findall(code)) > 16 else "none"


_VPMADDWD_YMM = re.compile(
    # VEX prefix of two bytes, 256 bits wide (L=1), operand prefix 66 (pp=01): ?????101
    b"\xc5[" + b"".join(re.escape(bytes([byte])) for byte in range(0x05, 0x100, 8)) + b"]\xf5"
)
_PMADDWD_XMM = re.compile(rb"\x66[\x40-\x4f]?\x0f\xf5")


def _library_versions() -> list[str]:
    names = {"libjpeg_turbo": "libjpeg-turbo", "webp": "WebP", "libtiff": "libtiff"}
    versions = {name: features.version(feature) for feature, name in names.items()}
    return [f"{name} {version}" if version else f"no {name}" for name, version in versions.items()]


# --- the digests --------------------------------------------------------------------------------


def _decoder_digest(rules: int) -> str:
    digest = xxhash.xxh3_128()
    for name, text in _PROBE_IMAGES.items():
        # 53 pixels high, the first picture is also decoded at 1/2, 1/4 and 1/8.
        for serves in (100, 12, 6, 3) if name == "colour" else (100,):
            digest.update(_decoded_probe(name, base64.b64decode(text), serves, rules))
    return digest.hexdigest()


def _decoded_probe(name: str, data: bytes, serves: int, rules: int) -> bytes:
    try:
        decoded = decode(data, fit="crop", serves=serves, exif=False, rules=rules)
    except DecodeError as e:  # a Pillow without this format: its digest must differ, too
        return f"{name}: {STATUS_WORDS[e.status]}\n".encode()
    size = f"{decoded.pixels.width}x{decoded.pixels.height}"
    return f"{name}: {size} {decoded.mode}\n".encode() + decoded.pixels.tobytes("raw", "RGB")


def _resizer_digest(filter: str) -> str:
    digest = xxhash.xxh3_128()
    for decoded in (_synthetic_image(331, 250, 1), _synthetic_image(603, 453, 2)):
        for size in SIZES:
            digest.update(resize(decoded, size, fit="crop", filter=filter))
    return digest.hexdigest()


def _synthetic_image(width: int, height: int, scale: int) -> Decoded:
    """Slopes, edges and grain out of integers: the same on every machine."""
    size = (-(-width // scale), -(-height // scale))
    y, x = np.mgrid[: size[1], : size[0]]
    grain = (x * 2654435761 + y * 40503) >> 7
    planes = [x * 3 + y, (x // 9 + y // 7) % 2 * 255, (x * y) // 11 + grain % 32, grain]
    pixels = np.stack([plane % 256 for plane in planes], axis=-1).astype(np.uint8)
    image = Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", 0, 1)
    return Decoded(image, width, height, "RGB", "JPEG", scale)


# --- the pictures -------------------------------------------------------------------------------

# Made once with Pillow and simplejpeg from integer arithmetic, and never changed: another picture
# would be another digest for every store there is.
#
#   colour      4:2:0, odd sides      wide     4:2:2        tall   4:4:0      grey   one channel
#   inks        CMYK                  palette  PNG with a transparent colour
#   unfinished  progressive, the first scan only: libjpeg-turbo 2 and 3 smooth it differently
_PROBE_IMAGES = MappingProxyType(
    {
        "colour": """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRk
xOUlNSMj5aYVpQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09P
T09PT09PT09PT0//wAARCAA1AEsDASIAAhEBAxEB/8QAGwABAAMBAAMAAAAAAAAAAAAABQADBAYBAgf/xAAxEAABAwMCBAQFAw
UAAAAAAAABAgMRAAQhEjEFE0FRIjJhcQaBkaGxFCMzQmLB0fH/xAAZAQADAQEBAAAAAAAAAAAAAAADBAUGAgH/xAAyEQABAgUB
BQYEBwAAAAAAAAABAAIDBBEhMUESEyJRcQVSYYHB8BQyQpFiobGy0eHx/9oADAMBAAIRAxEAPwDnOAcJVf3hunyP01soFQieYd
9OREd/cd5rrbi6DgKEzJ71l4dbrsOFsW6kFKtIU7IHmO8kfT2Aqu4WkAlsjV0gzSpcIzjurM5HJHh1UVtZiLU4GFFOlo6lGRti
qlPc7ymI71mU4pRh3y+uKqUvT/F84zR2S7d3QDg5fUtLKS33SDdxyvCrJOcVpbWXDrSRB70S2sKy7v64qx+7Xa27jrYJCR4YEi
f+10+UDmBrhVmgGfNW2QWsaXnTKsveIhy9Lckpa8Ajv1+/4rVZFSSFEiBmuctlNwCoiesmlrN9cgKJjrijzMm1rWiLemKadffN
YaOwxojohyUnxrh44raB23kXLKSQNM8xO+nGZ7e/rNc22FaBkV2dk6gAFvzdM0DxLgPFTxB5XD7Qm2UrUjxIESJIAxABkUsx8u
HbuaNSMEYpy0uqHZsQNBhPIAGKpO6e1SmInG9Fvp5fjmY6UtdcsyEgT0xRTqFgy5OnrJmhS42iC47R0Iw3rS3jdI9nMFAsS1c4
6dutVzyf7p+VXOpCsNb+mKp8n8uSdpzVhoDeNxv39P48FsZRll7J/c8ROnpG9HcYvihbdqjOjxK9+n+frW4gmVoMJAyZgCgS4H
n1OPAa1HqJgdB9K7gFz4hcw7J72h9PtyXfa0QQ5cQxl36Ba7ZsrIUVb5pqzd1QnTE43oe3bcmROnpmmrRSDhAE9MVxGYxlacNc
1+rpX3dZrYqF0FgjlwuZjpTyLkaBj71z/D0OagXCSnrJmuhbDXLGB9KgxnOBpBpDHJ2et/dktEhit7oV9htSA62rUkjUkgyCOl
GOpLh0KAg9qu+GnFXXCw04QXLSEH1T/Sduwj5etbH2g4CgAye9EgAwnlhGx+Hvf6vZVhgvLDognmgyNacnbNZg0XiSvp2pd23L
SpUMbYqk2/O8oiO9OmLtO2KWH0c/Gv5+S1km4UQXF1/pbXko8zv46/6+dFsshYCjMntSfE1ReKbOQjCY+/3/ABVLVopxWsRB71
SY/dsDGjaPd7vv1UWfmt/Mk1sLDy/tebfWFRAMYp2ztQkahOM1mtkJQACDIxilbOzWCFGIGYpKPEa3PGf2+/RL7VuSS4fLhCIE
Gl1O2LJ5b96y24N0qdSkj5Vnt+W2wtxwlKEJKlKI2AydvauKvebf3jt04kAuKkCdhsBt0ECpjYPxLiX8YGuPLXr5o8pKfEuNTQ
BZLS8esL9u4aUcKAWkY1pnKT719EuLdtCSpIgipUooO3C3jruAN9bBDnQA6GRrX0RvLDqyF5G9U3aBbMLcaABCSrOdhUqUCTcX
Su9PzVzrkaqjCcQ005LlGWEO+JeTMVqbbDaiEmAOlSpVWI9zZVsUHiOTqc6rMQSa0SdrbNrhShJNL2KJIBMg+lSpU+cJYGFtq5
8cZ5pkEmqxfFbykOMWTZKEFAcXB80mAD7Qfr6Ua2n9sZ+1SpXUUmC1gh2qK2tepWnkQBLNov/Z""",
        "wide": """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAUDBAQEAwUEBAQFBQUGBwwIBwcHBw8LCwkMEQ8SEhEPERETFhwXExQaFRERGCEYGh
0dHx8fExciJCIeJBweHx7/2wBDAQUFBQcGBw4ICA4eFBEUHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4e
Hh4eHh4eHh4eHh7/wAARCAATACkDASEAAhEBAxEB/8QAGQAAAgMBAAAAAAAAAAAAAAAABAcCAwYF/8QANBAAAQIFAAUICwEAAA
AAAAAAAQIDAAQFERIGEyEiMRQycXKRscHwBxVCUVJhY4GT0eHx/8QAGQEAAgMBAAAAAAAAAAAAAAAABQcCBggE/8QAMhEAAQIF
AQMLAwUAAAAAAAAAAQIRAAMEBSExEkFxBhMUFSIyM0JhgaEWJFGRssHC8P/aAAwDAQACEQMRAD8AUvoj0Hd0mr6q1UloFIpTyH
HEFsqE04DkGt4YlNgCocbKAtvXDzrNYTNJUw2VBSuBVw2bYDXdKqCoVaJ2VLGykjKXUGy7NqHYE4PCFvcpgrbkiUgdmSAPcsT/
AAOIjNvTqpJZddUCkjHdO2/kQC/UDPEapWOHHL5/5Eae2Kl0hsR8VWQfLrta66A+XWGjyfogWmtiL5KpiSGqdJUonLd4edkHev
2vqdg/cd0q5UtqlpopyVFSMEgBvZyD8QzKa2FaNob4noZS5jRnQqnUl1hbLuqDk9klFy8sAuZKSLGx3Qdu6lIubXgWsPsoSpcs
pJdHNxVc9nRAq3zJtyXOq7j44JMpxsl9U7KcbWWYEH8RmGxjpNWucnIWon2J9cjHxGbemnXVlM4SG7XGQxF/N4DfmS0RyI3vz8
d7o8YttJImKpDVLH3o0Ddpnbub+y/l0zuh+2CkGEju/wC3wRJPodGU4QHAbDI4m3m8H5yXxI/J/YMyLPaKiUmbcCkTj3nVsl/U
OG/QQyqenWEMgYhjaTE6h7b7J7oXLpPLU7ff3GKNUgda0XFP7hGQ+RSRzUcqvE6kdfwMAUom7v28YYMlI+ppfD+qo0RyfSOjiL
JwnlKOqO8xOAd/SOsp3GGnQgcyI//Z""",
        "tall": """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAUDBAQEAwUEBAQFBQUGBwwIBwcHBw8LCwkMEQ8SEhEPERETFhwXExQaFRERGCEYGh
0dHx8fExciJCIeJBweHx7/2wBDAQUFBQcGBw4ICA4eFBEUHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4e
Hh4eHh4eHh4eHh7/wAARCAAXACEDARIAAhEBAxEB/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAw
IEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdI
SUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1N
XW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/8QAHwEAAwEBAQEBAQEBAQAAAAAAAAECAwQFBgcICQoL/8QAtREAAgECBAQDBAcF
BAQAAQJ3AAECAxEEBSExBhJBUQdhcRMiMoEIFEKRobHBCSMzUvAVYnLRChYkNOEl8RcYGRomJygpKjU2Nzg5OkNERUZHSElKU1
RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6goOEhYaHiImKkpOUlZaXmJmaoqOkpaanqKmqsrO0tba3uLm6wsPExcbHyMnK0tPU1dbX
2Nna4uPk5ebn6Onq8vP09fb3+Pn6/9oADAMBAAIRAxEAPwDyX4ReB5fE2vtrWpOg0fSpkkkQxlhdSA7hF8w2lcAFh1wwGPmyPW
fBel3HhnwVp2kywPDL5SyX25VyZnGZNzKMHB+UHn5VUZOM14WYZxl9Wv7DLKdSDTspO1nLo27u0U92t15H5nmWd1685YTBSSpq
6lJby72fbs1v3sbWs6yt0rQRlgzdC3Tjmub1ieFFZrZlMo+7tbJ/L6UPAYydFrHThOl1jD4nrpbRdbN67XOjJ8lpq3KrPzCa9a
ycyysCpG35Tzn/ACK5ua7kkcreEiPGRuG0Z/zmuzLMpw8Jt5ZB0521dTSNuy31vb5Jn6Rl+TaLnV15GtPqBviPKbbs67uOv/6q
52a5MRH2I5z9/b830/rXpYzJ1U5f7UXtd+X2Wtu/Ntvpb0Z9tl+TRXwK3qb/AO//AL6fmf8ACud+3X//AE0/79//AFq4v7ByT/
oHq/d/wT3P7In5Hqmu35mLReXjf8ud3TPFFfB5Ln2Pxlenh69S8JtRatFXTdmrpX27an8n5PhaUY3S2OL1SE2pNxv37f4cYzni
iv1bE5Rg8pwksZg4ctSNrO7drtJ6NtbN9D9MyZe0ajLY5+6mN8TFjy8fNnOf89aK6uHK9TPa7w+YPnglzJaLVNK942ezfkfpGC
owpRTgipuNgf8Anp5n4Yx/+uivfzilHIFT/s73Oe/N1va1viva13sfa5bTjV+PWwv9pf8ATL/x7/61FeR/rHmf/P3/AMlj/ke7
9Updj//Z""",
        "grey": """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAYEBQYFBAYGBQYHBwYIChAKCgkJChQODwwQFxQYGBcUFhYaHSUfGhsjHBYWICwgIy
YnKSopGR8tMC0oMCUoKSj/wAALCAAdACUBAREA/8QAGAAAAwEBAAAAAAAAAAAAAAAAAwQFBgf/xAAtEAABAwMEAAQEBwAAAAAA
AAABAgMRAAQSBSEiMQYTFGEyQVHwB0JScYGR8f/aAAgBAQAAPwDmn4deEnNf1dWo3ykjS9PcStaCjIPrG+G4xI2GXsQPzSOwan
qguAppBIUrqevrUB26VarK3FAg7caUevTdkeWYx7y96Kxf+lTg4SSTlxp/wzp7ugeGLCwcaU05gHLqQmS4rdcqSIMfCD9EjcxS
2pPNoClMEeYOoMn+qhOXC3FEXUhHyy470q6+WyPSmZ+LHl+1FYeS4mbogL6GRx2rfateF0qbwjLjM9TWUv2jbku5ZY/KI9qi3D
puyW4wjlPf33SsmzP68/4iP9oqQLoeYVBuOMd/fddR1ppCW3ClCQQCQQOqxTxUt8JWoqSZkEyKmamhLaAWwEGYlO1Iscgsr5wQ
BlvFBuZQ4MCUgiSE7V//2Q==""",
        "inks": """
/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwAGBAUGBQQGBgUGBwcGCAoQCgoJCQoUDg8MEBcUGBgXFBYWGh0lHxobIxwWFiAsICMmJy
kqKRkfLTAtKDAlKCko/8AAFAgAFQAaBEMRAE0RAFkRAEsRAP/EABoAAAMAAwEAAAAAAAAAAAAAAAQFBgMHCAL/xAA1EAAABAQE
BQEDDQAAAAAAAAABAgMEAAUREgYhIjEHExQVMkEWJNMXIzM2RFNUYXGTlaTj/9oADgRDAE0AWQBLAAA/AOiZuv5Zx0UxbhQMo2
i/4pSXEjJxImDWYpu5omZkidZMgEKdULCiYQOIgWpgrQBGnoMdEuZlvqiJm6/lnDQrcKbRNSfB0x4czJHFM7XaLy9hdzU2hzGV
G8ophaBilDc4VqIZVhS5mW+qIqbr+WcDOm4WjlDDEeI23FlkSRYcIs2dt1AenO/ACJiQoCQQASCYa1UL6UoA5wqczLfVE2ZfUO
frCoW4VHKJv5HsR/jpR+6p8OARmWflG+Zuv5ZwzYmC0ItZpJMAMWTh1hxaXGniCZlWBUZiKpxcFCqYFJeN43AWhaDUcqDHtzMt
9URU3X8s4aFMFIkJXN8VTeZIsOIJHaeGFburM7aA1SChRElyoFKJdYEpqCo0D1pCpzMt9URU3X8s4GdGC0Yz4nLKsPsiOuFR0V
Z2dQElisFutP04gImESCJ6BcCeqm9ArnmqczLfVE2ZfUOfrCoTBUYlPbDip9xN/wCJL8OABmWflG+5uoOqMLFY1Ai7c8KfZauI
O9dV2r37kdLZzeVrsuvG2ttK0Gldhgly7UziKm6g6oaFWNSFLnHo8Sq4S7d2zuH2rn87l8v53wtLWtlNw3r+UKnLtTOImbqDqg
Z0sa0YUuZObg7XEHU946n3HkWdPbdrvuqev0dKU9d8oUuXamcTZlBuH9YVCsaowAPHo1fq7/e/zgEXalY//9k=""",
        "unfinished": """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ
6jq62rZ4C8ybqmx5moq6T/2wBDARweHigjKE4rK06kbl1upKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSk
pKSkpKSkpKSkpKT/wgARCAArADcDASIAAhEBAxEB/8QAGAAAAwEBAAAAAAAAAAAAAAAAAAIDAQT/xAAXAQEBAQEAAAAAAAAAAA
AAAAADAgQB/9oADAMBAAIQAxAAAAHVaUECia31J9pxDuLplaZomMqaznrOioaSXYl5lMBy9fJuVTLo5Hf/xAAcEAEAAgIDAQAA
AAAAAAAAAAABABARIAISMSH/2Q==""",
        "palette": """
iVBORw0KGgoAAAANSUhEUgAAABQAAAARBAMAAAAvapGNAAAAJFBMVEUm7qIj8zQx1ls9vH1AvwVFp3BRqQRUjq1XlCdid2NRUk
MWEz/CQywjAAAABHRSTlP///8AQCqp9AAAAGhJREFUeJxVzLENgzAYROGP317AG1ieAIkFUpA6GYEdGC9DEQlBmxRxCsp79+6G
F+7MUQMHSRXAGAQWSSU4kWmZR561YusuhMNv4UKfqIGsTJ+9KCLOxM2/6WYY5R6WTquBtL6b7XL+BXN2DnguNu/TAAAAAElFTk
SuQmCC""",
        "webp": """
UklGRsIBAABXRUJQVlA4ILYBAABwDACdASolACMAPrVKmkonJCIhsdZsAOAWiWwAnTKEgsyBKx/eNomMlXr9YmwweoDzgPQp5w
HUgc+N7Lv7W/rMAqo8g+7U3fHurrhvM2GLAd6Yy0P0TNlcIZofZdyQpOgewRLGgd2DGBntMQAA/Nop1C8EZykItcN9KrNX6hM+
xN6LlL92xPL1mHqPyhFS/+32064JuMjkXu8qt5FaH94ygZQEkF00aaNQSFwcI+yIHvVw65FubOXGrFsS9bmItD4DeJibPfWoZ1
SdoVX4hshbQXAKJiQ8uChiwP2l9Y/u5UBmoxoj0NYF1OaQKx81l1hDXdMMLneNG72Dsrx/b200BiyWvvJ87ADV9d3nEmBUIiON
ozN8stoKUVLuXQRnyt96BznAl1i8YZfy9dWzaZcYaU5xmFP9efCj4mVc39rntAJUTFMlUqnZJzDGTl04baR8ucPWUigJKpOu5G
YqUq1T+TGwJxiYgEePpNrq559sQSytw9NAK5edoRMbZWnGgqD2Y4xAqgxp9KOo5ZWZgkuLby2b8ZP7Lxy+3efcf2XFOUaz2ePn
9Yi/n4p5sOMrDSVaMiUuwAA=""",
        "tiff": """
SUkqAIYBAACADEWCYQhwLhIQLJXKtTqNQIpEIVBIA/HxGosWigRB0MBMHQpVKZRJ9OIZBoGKno8IhDikSB4MBQHgpXSFRJ5Nph
BH8+yo7HRCIMSh8NBQIAtOzZPJpLpQ/Hs8z85HBAn8QhsLBEGJ1MSKcJdJpA9ng7HM4G42H0+DAVCUQLFWKdIoxEoWUHpEodCT
s+ns0GYWCeCq5UqRG3VBH49HdDISqnyVGUxy4PK9VKVQopDYk9nc6IOKVA7nUwmCCBu4zdEIM/2M6nKUaI6nMvl0R5XCqBN3Y+
HnXm+n2Q6VMuFsHAlNJVIItDJRIXS7H40mYyGHals2GutpdJI5EoTu5rWHwzmQxdcsmo0grk8vN8tEY6emUxGAulsslc0GcEJl
Ju8QhAEczTODwMYwC8/AriqMwyk47hGEOQY/EY+JAJ6O4wi8LgtCwKwqDIMZWlOUSuEmR48DoOA2umMY5DeNo1P2MooieVZTFB
B5JEaO45jeNY0OqOK0DSM7JCgJ6AgACQAAAQMAAQAAABcAAAABAQMAAQAAABEAAAACAQMAAQAAAAgAAAADAQMAAQAAAAUAAAAG
AQMAAQAAAAEAAAARAQQAAQAAAAgAAAAWAQMAAQAAABEAAAAXAQQAAQAAAH0BAAAcAQMAAQAAAAEAAAAAAAAA""",
    }
)
