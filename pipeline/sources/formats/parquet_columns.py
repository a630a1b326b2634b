"""The columns of a Parquet table that hold images, names and labels.

Options name them; otherwise their names and types decide.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline.errors import SourceError
from pipeline.sources.keys import LABEL_WORDS
from pipeline.sources.options import DEFAULT_OPTIONS, SourceOptions

_IMAGE = (
    *("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "picture", "photo"),
    *("pixel_values", "content", "data"),
)


_NAME = ("key", "__key__", "filename", "file_name", "path", "image_path", "name")


_LABEL_OF_RULES_1 = ("wnid", "label", "cls", "class", "labels", "class_name")


_IMAGE_OF_RULES_1 = (
    *("image", "bytes", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "content"),
)


@dataclass(frozen=True)
class Columns:
    """The columns of a table with the images, names and labels."""

    image: str
    """The column of images."""
    name: str
    """The column of names; empty: there is none."""
    label: str
    """The column of labels; empty: there is none."""
    names: tuple[str, ...]
    """The class names in the order of the labels, if the schema lists them."""
    other_labels: tuple[str, ...] = ()
    """The further columns that may be labels."""

    def read(self, schema: pa.Schema, *, images: bool = True) -> list[str]:
        """Return the names of the columns to read, as Parquet spells them.

        Args:
            schema: The schema of the file that this object was made for.
            images: True to read the bytes of images, too; False: only names and labels.

        Returns:
            Those of the columns `image`, `name` and `label` that this object names, in this order.
            Without images, the first is the path beside the bytes, such as `image.path`, if there
            is one. The list may be empty.

        Raises:
            KeyError: *images* is False, and the schema has no such column of images.
        """
        image = self.image
        if not images:
            kind = schema.field(image).type
            has_path = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
            image = f"{image}.path" if has_path else ""
        return [name for name in (image, self.name, self.label) if name]


def columns_of(schema: pa.Schema, where: str, options: SourceOptions = DEFAULT_OPTIONS) -> Columns:
    """Return the columns to use: those that the options name, else by their names and types.

    Args:
        schema: The Arrow schema of the file.
        where: The full name of the file, for messages.
        options: The options by which the source is read (default: none is set).

    Returns:
        A `Columns`: the columns `image`, and `name` and `label` ('' without one), the class `names`
        in the schema's metadata in the order of the labels (empty without any), and `other_labels`,
        further columns that may be labels.

    Raises:
        SourceError: No column can hold the bytes of images, several may, an option names a missing
            column, or the labels are neither numbers nor names.
    """
    is_old = options.rules == 1
    image = _checked_column(schema, where, options.image_column, "image") or _image_column_of(
        schema, where, _IMAGE_OF_RULES_1 if is_old else _IMAGE
    )
    if not _holds_bytes(schema, image):
        raise SourceError(
            f"{where}: the column {image!r} holds {schema.field(image).type}: expected the bytes"
            " of images, binary or struct<bytes, path>. Pass another column with --image-column,"
            " or save the table with the images embedded."
        )

    labels = [
        n
        for n in _columns_by_rank(schema, _LABEL_OF_RULES_1 if is_old else LABEL_WORDS)
        if n != image
    ]
    names = [name for name in _columns_by_rank(schema, _NAME) if name != image]
    label = _checked_column(schema, where, options.label_column, "label") or next(iter(labels), "")
    if label and not is_old:
        _check_label(schema, label, where)
    name = _checked_column(schema, where, options.name_column, "name") or next(iter(names), "")
    other_labels = tuple(candidate for candidate in labels if candidate != label)
    return Columns(image, name, label, _names_in_hub_metadata(schema, label), other_labels)


def _checked_column(schema: pa.Schema, where: str, column: str, role: str) -> str:
    """Return the column that an option names.

    Raises:
        SourceError: The table has no such column.
    """
    if column and column not in schema.names:
        raise SourceError(
            f"{where} has no column {column!r}, which --{role}-column names: it has "
            f"{', '.join(map(repr, schema.names))}."
        )
    return column


def _columns_by_rank(schema: pa.Schema, words: tuple[str, ...]) -> Iterator[str]:
    """Yield the columns called as *words*, in that order; `.jpg` and `Image` match, too."""
    plain: dict[str, str] = {}
    for name in schema.names:
        plain.setdefault(name.lower().removeprefix("."), name)
        plain[name] = name  # an exact name takes precedence
    yield from (plain[word] for word in words if word in plain)


def _image_column_of(schema: pa.Schema, where: str, words: tuple[str, ...]) -> str:
    image = next(
        (name for name in _columns_by_rank(schema, words) if _holds_bytes(schema, name)), ""
    )
    if image:
        return image
    byte_columns = [name for name in schema.names if _holds_bytes(schema, name)]
    if len(byte_columns) == 1:
        return str(byte_columns[0])
    choices = (
        f"several columns of bytes ({', '.join(map(repr, byte_columns))})"
        if byte_columns
        else "no such column"
    )
    all_columns = ", ".join(f"{field.name!r}: {field.type}" for field in schema)
    raise SourceError(
        f"{where} has no column of images: expected bytes, binary or struct<bytes, path>, called"
        f" {', '.join(_IMAGE[:4])} or the like; it has {choices} among {all_columns}. Pass the"
        " column with --image-column."
    )


def _check_label(schema: pa.Schema, label: str, where: str) -> None:
    """Refuse a label of a type that is no number and no name, before a row is read."""
    kind = schema.field(label).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    fits = (
        *(pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null),
        *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, _is_binary),
    )
    if not any(fit(kind) for fit in fits):
        raise SourceError(
            f"{where}: the column {label!r} holds {kind}: expected one number or one name for each"
            " image. Pass another column with --label-column."
        )


def _holds_bytes(schema: pa.Schema, name: str) -> bool:
    kind = schema.field(name).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(test(kind) for test in tests)


def _names_in_hub_metadata(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """Return the class names that the Hub stores as JSON in the schema's metadata."""
    text = (schema.metadata or {}).get(b"huggingface")
    if not text or not label:
        return ()
    try:
        names = json.loads(text)["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()
