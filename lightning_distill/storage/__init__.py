"""Records of one size in a folder, found by key: appended by many, mapped by many, checked at first touch."""

from lightning_distill.storage.layout import Field, RecordLayout
from lightning_distill.storage.mending import Mended, mend
from lightning_distill.storage.segment import Segment
from lightning_distill.storage.store import MISSING, RecordStore
from lightning_distill.storage.writer import SegmentWriter

__all__ = ["MISSING", "Field", "Mended", "RecordLayout", "RecordStore", "Segment", "SegmentWriter", "mend"]
