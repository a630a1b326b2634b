"""One set of random images, in each layout that a source may have."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PACKED = {
    "plain": lambda data: data,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}
"""The functions that compress bytes, by the suffix of their files. A lower preset of xz allocates
less memory."""

Pictures = dict[str, bytes]
"""The bytes of each image by key. Sources never decode, so any bytes will do."""

WNIDS = ("n01440764", "n01443537", "n02119789", "n03255030")


def made_pictures(count: int = 40, num_bytes: int = 700, seed: int = 0) -> Pictures:
    """Return *count* images of four classes; their sizes differ, and one is empty."""
    rng = np.random.default_rng(seed)
    pictures = {}
    for i in range(count):
        wnid = WNIDS[i % len(WNIDS)]
        size = 0 if i == 7 else int(rng.integers(num_bytes // 2, num_bytes * 3 // 2))
        pictures[f"{wnid}/{wnid}_{rng.integers(10**5)}{i}.JPEG"] = rng.bytes(size)
    return pictures


def write_folder(root: Path, pictures: Pictures) -> Path:
    for key, data in pictures.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(data)
    return root


def tar_bytes(members: dict[str, bytes], mode: str = "w", **options: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, **options) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def by_class(pictures: Pictures) -> dict[str, dict[str, bytes]]:
    classes: dict[str, dict[str, bytes]] = {}
    for key, data in pictures.items():
        wnid, name = key.split("/")
        classes.setdefault(wnid, {})[name] = data
    return classes


def class_tars(pictures: Pictures) -> dict[str, bytes]:
    return {f"{wnid}.tar": tar_bytes(files) for wnid, files in by_class(pictures).items()}


def write_class_tars(root: Path, pictures: Pictures) -> Path:
    root.mkdir(parents=True)
    for name, data in class_tars(pictures).items():
        (root / name).write_bytes(data)
    return root


def write_tar_of_tars(root: Path, pictures: Pictures, mode: str = "w", suffix: str = "") -> Path:
    root.mkdir(parents=True)
    tar = root / f"ILSVRC2012_img_train.tar{suffix}"
    tar.write_bytes(tar_bytes(class_tars(pictures), mode))
    return root


def write_tree_tar(root: Path, pictures: Pictures) -> Path:
    root.mkdir(parents=True)
    (root / "pictures.tar").write_bytes(tar_bytes(pictures))
    return root


def shard_members(pictures: Pictures) -> dict[str, bytes]:
    """Return the members of a shard: flat names, with the class's sorted number in a `.cls`."""
    members = {}
    for key, data in pictures.items():
        wnid, name = key.split("/")
        members[name] = data
        members[name.partition(".")[0] + ".cls"] = str(WNIDS.index(wnid)).encode()
    return members


def write_webdataset(root: Path, pictures: Pictures, mode: str = "w", suffix: str = "") -> Path:
    root.mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(WNIDS))
    keys = sorted(pictures, key=lambda key: key[::-1])  # shards are shuffled
    for shard in range(3):
        members = shard_members({key: pictures[key] for key in keys[shard::3]})
        (root / f"shard-{shard:06d}.tar{suffix}").write_bytes(tar_bytes(members, mode))
    return root


def write_parquet_plain(root: Path, pictures: Pictures, row_group_size: int = 7) -> Path:
    root.mkdir(parents=True)
    keys = list(pictures)
    for part in range(2):
        mine = keys[part::2]
        table = pa.table(
            {
                "image": pa.array([pictures[key] for key in mine], pa.binary()),
                "filename": [key.split("/")[1] for key in mine],
                "wnid": [key.split("/")[0] for key in mine],
            }
        )
        pq.write_table(table, root / f"part-{part}.parquet", row_group_size=row_group_size)
    return root


def write_parquet_hub(root: Path, pictures: Pictures, row_group_size: int = 7) -> Path:
    (root / "data").mkdir(parents=True)
    images = pa.array(
        [{"bytes": data, "path": key.split("/")[1]} for key, data in pictures.items()],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    labels = pa.array([WNIDS.index(key.split("/")[0]) for key in pictures], pa.int64())
    features = {"label": {"names": list(WNIDS), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"image": images, "label": labels}).replace_schema_metadata(metadata)
    name = root / "data" / "train-00000-of-00001.parquet"
    pq.write_table(table, name, row_group_size=row_group_size)
    return root


LAYOUTS = {
    "folder": write_folder,
    "ilsvrc-tar": write_tar_of_tars,
    "class-tars": write_class_tars,
    "tar": write_tree_tar,
    "webdataset": write_webdataset,
    "parquet plain": write_parquet_plain,
    "parquet hub": write_parquet_hub,
    "ilsvrc-tar gz": lambda root, pictures: write_tar_of_tars(root, pictures, "w:gz", ".gz"),
    "webdataset gz": lambda root, pictures: write_webdataset(root, pictures, "w:gz", ".gz"),
}
