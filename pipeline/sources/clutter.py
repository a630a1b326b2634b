"""The names that are no samples and no classes: what systems, editors and programs leave behind.

Skipped files are counted by these reasons, so that each omission is reported.
"""

from fnmatch import fnmatchcase

from pipeline.sources.keys import may_be_image
from pipeline.sources.options import SourceOptions

HIDDEN = "hidden by a dot"
SYSTEM = "of a system or NAS"
UNFINISHED = "backups and unfinished downloads"
TEXTS = "texts, tables and archives"
IGNORED = "by --ignore"
NO_IMAGES = "folders without an image"
BESIDE = "images and folders beside those of the splits"

_SYSTEM_FOLDERS = frozenset(
    name.casefold()
    for name in (
        "__MACOSX", "lost+found", "$RECYCLE.BIN", "RECYCLER", "RECYCLED",
        "System Volume Information", "FOUND.000", "@eaDir", "@tmp", "#recycle", "#snapshot",
        "@Recycle", "@Recently-Snapshot", "@__thumb", "@sharebin", "~snapshot",
        "Network Trash Folder", "Temporary Items", "TheVolumeSettingsFolder",
        "SynologyWorkingDirectory", "__pycache__",
        "_vti_cnf", "_vti_pvt", "_vti_script", "_vti_txt", "$Extend", "$WinREAgent", "@database",
    )
)  # fmt: skip
_SYSTEM_FILES = frozenset(
    name.casefold()
    for name in ("Icon\r", "Icon\uf00d", "Thumbs.db", "ehthumbs.db", "desktop.ini", "folder.info")
)
_SYSTEM_MARKS = (
    ":zone.identifier", "@synoeastream", "@synoresource", ":encryptable", ":com.apple.",
)  # fmt: skip
_UNFINISHED_ENDS = (
    "~", ".part", ".partial", ".crdownload", ".download", ".filepart", ".aria2", ".!ut",
    ".tmp", ".temp", ".bak", ".orig", ".swp", ".swo", ".swn", ".rej",
)  # fmt: skip


def folder_skip_reason(name: str, options: SourceOptions) -> str:
    """Return the reason why a folder is skipped with all that is in it; empty if it is not.

    Args:
        name: The name of the folder, without its parents.
        options: The options by which the source is read, whose `ignore` has shell patterns of names
            (upper and lower case differ). Where its `rules` is 1, only a name that begins with a
            dot and `__MACOSX` are skipped.

    Returns:
        The first that applies of 'hidden by a dot', 'of a system or NAS' and 'by --ignore'; or ''.
    """
    if name.startswith("."):
        return HIDDEN
    if options.rules == 1:
        return SYSTEM if name == "__MACOSX" else ""
    if name.casefold() in _SYSTEM_FOLDERS:
        return SYSTEM
    return IGNORED if _is_ignored(name, options) else ""


def file_skip_reason(name: str, options: SourceOptions) -> str:
    """Return the reason why a file is no sample; empty if it may be an image.

    Args:
        name: The name of the file, without its folders.
        options: The options by which the source is read, whose `ignore` has shell patterns of names
            (upper and lower case differ). Where its `rules` is 1, only hidden files and texts,
            tables and archives are skipped.

    Returns:
        The first that applies of 'hidden by a dot', 'by --ignore', 'of a system or NAS', 'backups
        and unfinished downloads' and 'texts, tables and archives'; or ''.
    """
    if name.startswith("."):
        return HIDDEN
    if options.rules == 1:
        return "" if may_be_image(name) else TEXTS
    if _is_ignored(name, options):
        return IGNORED
    return system_file_reason(name) or ("" if may_be_image(name) else TEXTS)


def name_skip_reason(name: str, options: SourceOptions) -> str:
    """Return the reason why a file is no sample, table or archive; empty if it may be one.

    Args:
        name: The name of the file, without its folders.
        options: The options by which the source is read, whose `ignore` has shell patterns of names
            (upper and lower case differ). Where its `rules` is 1, only hidden files are skipped.

    Returns:
        The first that applies of 'hidden by a dot', 'by --ignore', 'of a system or NAS' and
        'backups and unfinished downloads'; or ''.
    """
    if name.startswith("."):
        return HIDDEN
    if options.rules == 1:
        return ""
    return IGNORED if _is_ignored(name, options) else system_file_reason(name)


def member_skip_reason(path: str, options: SourceOptions) -> str:
    """Return the reason why a member of an archive is no sample; empty if it may be an image.

    Args:
        path: The path of the member in the archive; a hidden folder hides all that is in it.
        options: The options by which the source is read, whose `ignore` has shell patterns of names
            (upper and lower case differ).

    Returns:
        'hidden by a dot', 'by --ignore', 'of a system or NAS', 'backups and unfinished downloads'
        or 'texts, tables and archives'; or ''. The outermost folder that is skipped tells the
        reason, else the file.
    """
    *folders, name = path.split("/")
    reasons = (folder_skip_reason(part, options) for part in folders if part not in (".", ".."))
    return next(filter(None, reasons), "") or file_skip_reason(name, options)


def system_file_reason(name: str) -> str:
    """Return the reason for skipping a system's or program's file; empty for other files.

    Args:
        name: The name of the file, without its folders.

    Returns:
        'of a system or NAS' for files such as `Thumbs.db`, 'backups and unfinished downloads' for
        those such as `a.jpg.part`; or ''.
    """
    folded = name.casefold()
    if folded in _SYSTEM_FILES or any(mark in folded for mark in _SYSTEM_MARKS):
        return SYSTEM
    if folded.endswith(_UNFINISHED_ENDS) or folded.startswith("~$") or _is_autosave(folded):
        return UNFINISHED
    return ""


def _is_autosave(name: str) -> bool:
    return len(name) > 1 and name.startswith("#") and name.endswith("#")


def _is_ignored(name: str, options: SourceOptions) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in options.ignore)
