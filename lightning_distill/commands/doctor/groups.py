"""Groups (speakers, patients, near-copies) that are on both sides of a split."""

from __future__ import annotations

import numpy as np

from lightning_distill.commands.doctor.findings import Findings
from lightning_distill.commands.init.roles import GROUPS
from lightning_distill.data import GroupSplit, ManifestSource
from lightning_distill.data.cells import to_numpy
from lightning_distill.data.source import SPLITS
from lightning_distill.data.tables import column_names, read_table


def check_groups(source: object, findings: Findings) -> None:
    """Look at the columns of a manifest whose names are those of groups."""
    if not isinstance(source, ManifestSource):
        return
    splitter = source.layout.splitter
    used = [*source.layout.modalities.values(), *source.layout.target.columns, *splitter.required]
    for name in column_names(source.path):
        if name.casefold() not in GROUPS or name in used or isinstance(splitter, GroupSplit):
            continue
        with findings.step(f"{source.path}, column {name!r}"):
            _check(source, name, findings)


def _check(source: ManifestSource, name: str, findings: Findings) -> None:
    cells = read_table(source.path, [name]).columns[name]
    codes = to_numpy(cells.dictionary_encode().indices.fill_null(-1)).astype(np.int64)
    there = codes >= 0
    pairs = np.unique(codes[there] * len(SPLITS) + source.samples.split[there])
    groups, splits = np.unique(pairs // len(SPLITS), return_counts=True)
    shared = int((splits > 1).sum())
    if shared:
        findings.warn(
            f"{source.path}, column {name!r}",
            f"{shared} of {len(groups)} groups are in several splits, which makes results look too good",
            "each group in one split",
            f"splitter: {{class_path: GroupSplit, init_args: {{column: {name}}}}}; if {name!r} does not name "
            "what belongs together, ignore this",
        )
