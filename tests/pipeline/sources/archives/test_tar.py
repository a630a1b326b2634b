"""The walk over a tar's headers, compared with Python's own tarfile."""

import gzip
import io
import tarfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ReadError, SourceError
from pipeline.sources.archives.compression import decompressed
from pipeline.sources.archives.open import open_tar
from pipeline.sources.archives.tar import Tar, is_tar, stem_of
from pipeline.sources.content import COMPRESSIONS, TAR, content_of
from pipeline.sources.location import Location
from tests.pipeline.sources.layouts import PACKED, tar_bytes

parts = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=40
).filter(lambda part: part not in (".", "..") and part.strip() == part)
long_parts = st.integers(90, 300).map(lambda length: "x" * length)
names = st.lists(parts | long_parts, min_size=1, max_size=4).map("/".join)
members = st.dictionaries(names, st.binary(max_size=2000), max_size=12)


class FrontToBack(io.RawIOBase):
    """A file that cannot seek, like a pipe, and reads in small pieces."""

    def __init__(self, data: bytes) -> None:
        self._inner = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._inner.read(min(size, 700))


def walked(tar: Tar) -> dict[str, bytes]:
    return {member.name: tar.read(member.offset, member.num_bytes) for member in tar.members()}


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(files=members)
def test_names_and_bytes_equal_those_of_tarfile(format_, files):
    """Names of any length and characters are read like by tarfile, at random and as a stream."""
    data = tar_bytes(files, format=format_)
    with tarfile.open(fileobj=io.BytesIO(data)) as oracle:
        expected = {
            member.name: oracle.extractfile(member).read() for member in oracle if member.isfile()
        }
    assert walked(Tar(io.BytesIO(data), "t", len(data), can_seek=True)) == expected
    assert walked(Tar(FrontToBack(data), "t")) == expected


@given(
    st.dictionaries(
        st.from_regex(r"([a-z]{1,40}/){0,4}[a-z]{1,60}", fullmatch=True),
        st.binary(max_size=700),
        max_size=8,
    )
)
def test_ustar_names_may_be_split_over_two_fields(files):
    """The oldest of the three formats has a prefix field for long names."""
    data = tar_bytes(files, format=tarfile.USTAR_FORMAT)
    assert walked(Tar(io.BytesIO(data), "t", len(data), can_seek=True)) == files


def test_a_long_ustar_name_is_joined():
    """A name of 155 characters before a slash and 100 after it is joined from both fields."""
    files = {f"{'p' * 60}/{'q' * 70}/{'r' * 90}": b"1"}
    data = tar_bytes(files, format=tarfile.USTAR_FORMAT)
    assert walked(Tar(io.BytesIO(data), "t", len(data), can_seek=True)) == files


@given(files=members.filter(bool), data=st.data())
def test_a_truncated_tar_is_refused(files, data):
    """A tar that is cut anywhere before its closing zeros is refused with its name."""
    archive = tar_bytes(files)
    end = len(archive.rstrip(b"\0"))
    with tarfile.open(fileobj=io.BytesIO(archive)) as oracle:
        last = oracle.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    cut = archive[: data.draw(st.integers(0, end + 511))]
    for tar in (
        Tar(io.BytesIO(cut), "some.tar", len(cut), can_seek=True),
        Tar(FrontToBack(cut), "some.tar"),
    ):
        with pytest.raises(SourceError, match=r"some\.tar is not a complete tar"):
            walked(tar)


def test_the_error_for_a_truncated_tar_names_its_last_member(tmp_path):
    """The error names the last whole member, which shows how far the archive goes."""
    archive = tar_bytes({"a.jpg": b"x" * 600, "b.jpg": b"y" * 600})
    (tmp_path / "t.tar").write_bytes(archive[:2200])
    with open_tar(Location(str(tmp_path)), "t.tar") as tar, pytest.raises(SourceError) as caught:
        list(tar.members())
    assert "member 'b.jpg' at byte 1536 needs 600 bytes, and the archive ends at byte 2200" in str(
        caught.value
    )
    (tmp_path / "t.tar").write_bytes(archive[:1536])
    location = Location(str(tmp_path))
    with open_tar(location, "t.tar") as tar, pytest.raises(SourceError, match=r"member 'a\.jpg'"):
        list(tar.members())


@given(st.integers(0, 511), st.integers(1, 255))
def test_a_flipped_byte_in_a_header_is_detected(at, flip):
    """The checksum of the header covers its 512 bytes."""
    data = bytearray(tar_bytes({"a.jpg": b"x" * 10, "b.jpg": b"y"}))
    data[1024 + at] ^= flip
    tar = Tar(io.BytesIO(bytes(data)), "t", len(data), can_seek=True)
    field = 148 <= at < 156  # the sum's own field has bytes that mean nothing, as spaces
    if field:
        try:
            assert walked(tar) == {"a.jpg": b"x" * 10, "b.jpg": b"y"}
        except SourceError:
            return
    else:
        with pytest.raises(SourceError, match="no header of a member is at byte 1024"):
            walked(tar)


@pytest.mark.parametrize("suffix", ["tar.gz", "tgz", "tar.bz2", "tar.xz", "tar.zst"])
def test_compressed_tars_are_read_as_streams(tmp_path, suffix):
    """Each compression gives the same members, and a truncated file is refused."""
    files = {f"{i}.jpg": bytes([i]) * 3000 for i in range(20)}
    path = tmp_path / f"t.{suffix}"
    if suffix == "tar.zst":
        path.write_bytes(pa.compress(tar_bytes(files), "zstd", asbytes=True))
    else:
        kind = {"tgz": "gz"}.get(suffix, suffix[4:])
        path.write_bytes(tar_bytes(files, f"w:{kind}"))
    location = Location(str(tmp_path))
    with open_tar(location, path.name) as tar:
        assert walked(tar) == files
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with (
        open_tar(location, path.name) as tar,
        pytest.raises(SourceError, match="not a complete tar"),
    ):
        walked(tar)


def test_gzip_in_several_members_is_read_to_its_end(tmp_path):
    """A gzip file of several streams, as pigz and cat write it, is read to its end."""
    data = tar_bytes({"a.jpg": b"1" * 9000, "b.jpg": b"2" * 9000})
    (tmp_path / "t.tgz").write_bytes(gzip.compress(data[:5000]) + gzip.compress(data[5000:]))
    with open_tar(Location(str(tmp_path)), "t.tgz") as tar:
        assert list(walked(tar)) == ["a.jpg", "b.jpg"]


def test_a_broken_compression_and_a_failing_disk_raise_different_errors(tmp_path):
    """A broken compression raises SourceError, and EIO raises ReadError, which may be temporary."""
    packed = tar_bytes({f"{i}.jpg": bytes([i]) * 3000 for i in range(20)}, "w:gz")
    (tmp_path / "t.tgz").write_bytes(packed[:200] + b"this is no gzip" + packed[215:])
    location = Location(str(tmp_path))
    with (
        open_tar(location, "t.tgz") as tar,
        pytest.raises(SourceError, match="compression is broken"),
    ):
        walked(tar)

    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    with pytest.raises(ReadError, match="cannot read t: Input/output error"):
        walked(Tar(Broken(), "t"))


def test_folders_devices_and_pipes_are_skipped_and_links_are_resolved():
    """Only regular files and links to them are members; the target of a link is resolved."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, target in [
            ("d", tarfile.DIRTYPE, ""),
            ("p", tarfile.FIFOTYPE, ""),
            ("d/a.jpg", tarfile.REGTYPE, ""),
            ("d/hard.jpg", tarfile.LNKTYPE, "d/a.jpg"),
            ("d/soft.jpg", tarfile.SYMTYPE, "../d/./a.jpg"),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    walked_members = list(
        Tar(io.BytesIO(out.getvalue()), "t", len(out.getvalue()), can_seek=True).members()
    )
    assert [(member.name, member.target) for member in walked_members] == [
        ("d/a.jpg", None),
        ("d/hard.jpg", "d/a.jpg"),
        ("d/soft.jpg", "d/a.jpg"),
    ]


def test_a_sparse_member_is_refused():
    """A sparse member is refused, since its bytes are not contiguous."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.jpg")
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "a.jpg"}
        tar.addfile(member)
    with pytest.raises(SourceError, match=r"'a\.jpg' is sparse"):
        list(Tar(io.BytesIO(out.getvalue()), "t").members())


def test_sizes_over_eight_gibibytes_are_understood(tmp_path):
    """Sizes in base 256 (GNU) and in a pax header are read, here over a hole in a file."""
    for format_ in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{format_}.tar"
        member = tarfile.TarInfo("huge")
        member.size = 9 << 30
        header = member.tobuf(format_)
        tail = tar_bytes({"last.jpg": b"end"})
        with path.open("wb") as file:
            file.write(header)
            file.seek(member.size, io.SEEK_CUR)
            file.write(tail)
        with open_tar(Location(str(tmp_path)), path.name) as tar:
            walked_members = list(tar.members())
        assert [(member.name, member.num_bytes) for member in walked_members] == [
            ("huge", 9 << 30),
            ("last.jpg", 3),
        ]


def test_a_global_pax_header_applies_to_all_members():
    """A global pax header applies until a member's own header overrides it."""
    data = tar_bytes(
        {"a.jpg": b"1", "b.jpg": b"2"},
        format=tarfile.PAX_FORMAT,
        pax_headers={"comment": "git archive writes such a one"},
    )
    assert list(walked(Tar(io.BytesIO(data), "t"))) == ["a.jpg", "b.jpg"]


def test_an_inner_tar_may_lack_its_closing_zeros():
    """An inner tar without closing zeros is read, since the outer header has its length."""
    inner = tar_bytes({"a.jpg": b"1" * 512})[:1024]
    outer = tar_bytes({"c.tar": inner, "z": b"z"})
    tar = Tar(io.BytesIO(outer), "t", len(outer), can_seek=True)
    first = next(tar.members())
    walked_members = list(tar.members(first.offset, first.offset + first.num_bytes))
    assert [member.name for member in walked_members] == ["a.jpg"]


def test_a_leading_dot_slash_is_no_part_of_a_name():
    """The './' that `tar cf x.tar .` writes is removed from names."""
    data = tar_bytes({"./a/b.jpg": b"1"})
    assert list(walked(Tar(io.BytesIO(data), "t"))) == ["a/b.jpg"]


def test_the_stem_of_a_tars_name_has_no_suffix():
    """The stem of an archive's name is found with any suffix, in any case."""
    assert [stem_of(name) for name in ("a/n1.tar", "n1.TGZ", "n1.tar.zst", "n1")] == ["n1"] * 4
    assert is_tar("x.Tar.Gz")
    assert not is_tar("x.tar.txt")


def test_going_back_in_a_stream_raises_an_error():
    """A read before the position of a stream raises ValueError, since it would need a restart."""
    data = tar_bytes({"a.jpg": b"1", "b.jpg": b"2"})
    tar = Tar(FrontToBack(data), "t")
    walked_members = list(tar.members())
    with pytest.raises(ValueError, match="cannot go back"):
        tar.read(walked_members[0].offset, 1)


def test_files_under_compressed_streams_are_closed(tmp_path):
    """Closing a stream closes the file that it reads."""
    (tmp_path / "t.tgz").write_bytes(tar_bytes({"a.jpg": b"1"}, "w:gz"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with open_tar(Location(str(tmp_path)), "t.tgz") as tar:
        list(tar.members())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("packing", ["plain", "gz", "bz2", "xz", "zst"])
@given(parts=st.lists(members, min_size=2, max_size=4), data=st.data())
def test_concatenated_archives_are_read_to_their_end(packing, parts, data):
    """Concatenated archives are read like by `tar --ignore-zeros`, also compressed ones."""
    archive = b"".join(PACKED[packing](tar_bytes(part)) for part in parts)
    if packing in ("plain", "gz"):
        archive += bytes(data.draw(st.integers(0, 3)) * 512)
    expected = [name for part in parts for name in part]
    content = content_of(archive[:1024])
    file = (
        decompressed(FrontToBack(archive), content)
        if content in COMPRESSIONS
        else FrontToBack(archive)
    )
    walked_members = list(Tar(file, "t").members())
    assert [member.name for member in walked_members] == expected
    if packing == "plain":
        seeking = Tar(io.BytesIO(archive), "t", len(archive), can_seek=True)
        assert [member.name for member in seeking.members()] == expected
        sizes = [len(data) for part in parts for data in part.values()]
        assert [member.num_bytes for member in walked_members] == sizes


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz", "zst"])
def test_a_compressed_tar_with_a_tars_magic_is_detected_as_compressed(packing):
    """Compressed bytes may hold `ustar` where a tar has it; only a header's checksum decides."""
    archive = PACKED[packing](tar_bytes({"a.jpg": b"1"})).ljust(600, b"x")
    shown = archive[:257] + b"ustar" + archive[262:]
    assert content_of(shown) == content_of(archive) != TAR
    damaged = bytearray(tar_bytes({"a.jpg": b"1"}))
    damaged[0] ^= 1
    assert content_of(bytes(damaged)) == TAR


@pytest.mark.parametrize("packing", ["plain", "gz", "bz2", "xz", "zst"])
def test_other_data_behind_the_end_are_refused(packing):
    """Bytes behind the closing zeros, or behind the compression, are refused."""
    data = tar_bytes({"a.jpg": b"1" * 600})
    for archive in (PACKED[packing](data + b"x" * 700), PACKED[packing](data) + b"x" * 700):
        content = content_of(archive[:1024])
        file = (
            decompressed(FrontToBack(archive), content)
            if content in COMPRESSIONS
            else FrontToBack(archive)
        )
        with pytest.raises(
            SourceError, match=r"what follows at byte \d+ is no|compression is brok"
        ):
            walked(Tar(file, "t"))


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz", "zst"])
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_compressed_archive_cut_anywhere_is_refused(packing, cut):
    """A cut in the data or checksum of the second stream is noticed like one in the first."""
    first = PACKED[packing](tar_bytes({"a.jpg": b"1" * 600}))
    both = first + PACKED[packing](tar_bytes({"b.jpg": bytes(range(256)) * 9}))
    length = len(first) + 1 + int(cut * (len(both) - len(first) - 1))
    with pytest.raises(SourceError, match="not a complete tar"):
        walked(Tar(decompressed(FrontToBack(both[:length]), content_of(both)), "t"))


def test_a_global_header_ends_with_its_archive():
    """The global header of the first archive does not apply to the second one."""
    first = tar_bytes({"a": b"1"}, format=tarfile.PAX_FORMAT, pax_headers={"path": "all/of/them"})
    walked_members = list(Tar(io.BytesIO(first + tar_bytes({"b": b"2"})), "t").members())
    assert [member.name for member in walked_members] == ["all/of/them", "b"]


def header_with(**fields: bytes) -> bytes:
    """Return a header with a given size field or given fields, and a correct checksum."""
    header = bytearray(tarfile.TarInfo("a.jpg").tobuf())
    header[124:136] = fields["size"].ljust(12, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize(
    "size", [b"-1", b"+7", b"1_0", b"0x10", b"9", b"\xff" * 12, b"\x80" + b"\xff" * 11, b"1e3"]
)
def test_an_impossible_size_is_refused(size):
    """Signs, separators, other digits, and negative or huge values are no size."""
    data = header_with(size=size) + bytes(1024)
    for tar in (Tar(io.BytesIO(data), "t", len(data), can_seek=True), Tar(FrontToBack(data), "t")):
        with pytest.raises(SourceError, match="not a complete tar"):
            walked(tar)


@pytest.mark.parametrize("size", ["-1", "1_0", " 5", "9" * 30, "5\udcff"])
def test_an_impossible_size_in_a_pax_header_is_refused(size):
    """A size in a pax header overrides the header's field, and is checked as strictly."""
    value = size.encode("utf-8", "surrogateescape")
    record = b"%d size=%s\n" % (len(value) + 9, value)
    assert len(record) == len(value) + 9
    extended = tarfile.TarInfo("pax")
    extended.type, extended.size = tarfile.XHDTYPE, len(record)
    data = extended.tobuf() + record.ljust(512, b"\0") + tar_bytes({"a.jpg": b"12345"})
    with pytest.raises(SourceError, match="not a complete tar"):
        walked(Tar(io.BytesIO(data), "t"))


@pytest.mark.parametrize(
    "record", [b"99 path=x\n", b"0 path=x\n", b"-5 path=x\n", b"8 path=x\n", b"10 path=xy\n"]
)
def test_a_pax_record_of_a_wrong_length_is_refused(record):
    """A pax record of a wrong length is refused, since its name or size would be wrong."""
    extended = tarfile.TarInfo("pax")
    extended.type, extended.size = tarfile.XHDTYPE, len(record)
    data = extended.tobuf() + record.ljust(512, b"\0") + tar_bytes({"a.jpg": b"12345"})
    with pytest.raises(SourceError, match="extended header at byte 0 cannot be read"):
        walked(Tar(io.BytesIO(data), "t"))


def test_the_rest_of_a_file_on_another_volume_is_refused():
    """A member that continues a file from another volume is refused."""
    member = tarfile.TarInfo("a.jpg")
    member.type = b"M"
    data = member.tobuf() + bytes(1024)
    with pytest.raises(SourceError, match=r"'a\.jpg' is the rest of a file that begins on another"):
        list(Tar(io.BytesIO(data), "t").members())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>" + b" " * 3000, "it is an HTML page"),
        (b"\n\n  <html>" + b" " * 3000, "it is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "it is an XML document"),
        (b'{"error": "not found"}', "it is a JSON document"),
        (b"Rar!\x1a\x07\x01\x00" + bytes(600), "a RAR archive. Unpack it"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(600), "it is a 7z archive"),
        (b"\x04\x22\x4d\x18" + bytes(600), "an lz4 archive. Unpack it"),
        (b"PAR1" + bytes(600), "it is a Parquet table"),
        (b"", "it is empty. Download it again"),
    ],
)
@pytest.mark.parametrize("where", ["local", "memory"])
def test_other_content_in_place_of_a_tar_is_named(tmp_path, data, message, where):
    """The error names a login page, an LFS pointer or a server's error, with advice."""
    if where == "local":
        location = Location(str(tmp_path))
        (tmp_path / "t.tar").write_bytes(data)
    else:
        location = Location(f"memory://{tmp_path}")
        fsspec.filesystem("memory").pipe_file(f"{tmp_path}/t.tar", data)
    with pytest.raises(SourceError, match=f"t.tar is not a tar: .*{message}"):
        open_tar(location, "t.tar")


@pytest.mark.parametrize("name", ["t.tar", "t.tgz", "t.zip", "t", "t.jpg"])
@pytest.mark.parametrize("where", ["local", "memory"])
def test_the_bytes_and_not_the_name_decide_the_compression(tmp_path, name, where):
    """The compression is detected from the bytes, since names are often wrong."""
    files = {"c/a.jpg": b"1" * 600}
    for pack in PACKED.values():
        packed = pack(tar_bytes(files))
        if where == "local":
            (tmp_path / name).write_bytes(packed)
            location = Location(str(tmp_path))
        else:
            location = Location(f"memory://{tmp_path}")
            fsspec.filesystem("memory").pipe_file(f"{tmp_path}/{name}", packed)
        with open_tar(location, name) as tar:
            assert walked(tar) == files
