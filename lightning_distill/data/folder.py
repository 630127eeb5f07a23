"""Samples in folders that are named after their classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from lightning_distill.data.media_paths import check_media
from lightning_distill.data.path_source import PathSource
from lightning_distill.data.splits import ColumnSplit, Splitter
from lightning_distill.data.table_folder import read_folder
from lightning_distill.data.table_source import TableLayout, index_table, unreadable
from lightning_distill.data.targets import SingleLabel


class FolderSource(PathSource):
    """Images or sounds in class folders: `root/CLASS/file`, or `root/SPLIT/CLASS/file`.

    Where all folders in `root` are named train, val (also validation, valid, dev) or test, they are the
    splits; otherwise `splitter` splits. Files may be deeper inside a class. Hidden files are skipped, files
    of other kinds are named in a warning.

    Args:
        root: The folder.
        modality: "image" or "audio".
        classes: Names of the folders in the order of the class indices; None sorts them.
        splitter: Which files train, validate and test; None is `ColumnSplit()`: the split folders where there
            are some, else a tenth each for validation and testing.

    Raises:
        ConfigError: If a setting is wrong.
        ManifestError: If there is no such folder, or no two classes in it, or a class has no files.
        SampleError: If files are empty.
    """

    suffixes: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {
            "image": (".jpg", ".jpeg", ".png", ".webp", ".bmp"),
            "audio": (".wav", ".flac", ".ogg", ".oga", ".mp3"),
        }
    )
    """modality -> how its files end; add your own in a subclass, with `load` and `path_modalities`."""

    def __init__(
        self,
        root: Path,
        modality: str = "image",
        classes: list[str] | None = None,
        splitter: Splitter | None = None,
    ) -> None:
        root = Path(root)
        if modality not in self.suffixes:
            raise unreadable(type(self).__name__, modality, self.suffixes)
        layout = TableLayout(
            {modality: "path"}, SingleLabel("label", classes), splitter=splitter or ColumnSplit()
        )
        table = read_folder(root, self.suffixes[modality])
        check = partial(check_media, root=root, allow_outside_root=False)
        super().__init__(layout, index_table(table, layout, self.path_modalities, check), root)
