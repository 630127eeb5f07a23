"""Data: sources, preprocessing per modality, DataModules per modality combination."""

# Names are loaded when first used: to prepare a raw file takes neither Lightning nor what reads tables.

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "AudioDataModule": "combinations",
    "AudioProcessor": "audio",
    "BatchKey": "sampling",
    "BatchSampler": "sampling",
    "ByteTextProcessor": "text",
    "ClassBalanced": "orders",
    "ColumnSplit": "splits",
    "CrossDomainDataModule": "cross_domain",
    "DataSource": "source",
    "DomainSampler": "domain_sampling",
    "DomainSubset": "domain_subset",
    "Domains": "domains",
    "DomainsSource": "domains_source",
    "FolderSource": "folder",
    "FrameSource": "frame",
    "GroupSplit": "splits",
    "HuggingFaceSource": "hugging_face",
    "HuggingFaceStream": "hugging_face_stream",
    "ImageAudioDataModule": "combinations",
    "ImageDataModule": "combinations",
    "ImageProcessor": "image",
    "ImageTextAudioDataModule": "combinations",
    "ImageTextDataModule": "combinations",
    "ImageViews": "image_views",
    "Independent": "pairing",
    "LengthBucketed": "orders",
    "LitDataStream": "lit_data",
    "ManifestColumns": "table_source",
    "ManifestSource": "manifest",
    "MappedDataModule": "mapped",
    "ModalityPaired": "orders",
    "MultiLabel": "targets",
    "MultimodalDataModule": "base",
    "MultimodalDataset": "dataset",
    "OwnView": "own_view",
    "PairedByClass": "pairing",
    "PairedByRow": "pairing",
    "Pairing": "pairing",
    "PartStream": "part_stream",
    "PartlyLabelled": "partly_labelled",
    "Processor": "processor",
    "RandomSplit": "splits",
    "RegressionTarget": "targets",
    "SampleTable": "source",
    "Sampling": "orders",
    "ShardSource": "shards",
    "Shuffle": "orders",
    "SingleLabel": "targets",
    "SpecAugment": "spec_augment",
    "Splitter": "splits",
    "StratifiedSplit": "splits",
    "StreamDataset": "stream_dataset",
    "StreamSample": "stream",
    "StreamSource": "stream",
    "TableLayout": "table_source",
    "TableSource": "table_source",
    "Target": "targets",
    "TextAudioDataModule": "combinations",
    "TextDataModule": "combinations",
    "TextProcessor": "text",
    "Unlabelled": "unlabelled",
    "Waveform": "source",
    "WebDatasetStream": "web_dataset",
    "as_batch": "mapped",
    "content_ids": "mapped",
    "decode_audio": "audio",
    "decode_image": "image",
    "read_audio": "audio",
    "read_batch": "mapped",
    "read_image": "image",
}

__all__ = [
    "AudioDataModule",
    "AudioProcessor",
    "BatchKey",
    "BatchSampler",
    "ByteTextProcessor",
    "ClassBalanced",
    "ColumnSplit",
    "CrossDomainDataModule",
    "DataSource",
    "DomainSampler",
    "DomainSubset",
    "Domains",
    "DomainsSource",
    "FolderSource",
    "FrameSource",
    "GroupSplit",
    "HuggingFaceSource",
    "HuggingFaceStream",
    "ImageAudioDataModule",
    "ImageDataModule",
    "ImageProcessor",
    "ImageTextAudioDataModule",
    "ImageTextDataModule",
    "ImageViews",
    "Independent",
    "LengthBucketed",
    "LitDataStream",
    "ManifestColumns",
    "ManifestSource",
    "MappedDataModule",
    "ModalityPaired",
    "MultiLabel",
    "MultimodalDataModule",
    "MultimodalDataset",
    "OwnView",
    "PairedByClass",
    "PairedByRow",
    "Pairing",
    "PartStream",
    "PartlyLabelled",
    "Processor",
    "RandomSplit",
    "RegressionTarget",
    "SampleTable",
    "Sampling",
    "ShardSource",
    "Shuffle",
    "SingleLabel",
    "SpecAugment",
    "Splitter",
    "StratifiedSplit",
    "StreamDataset",
    "StreamSample",
    "StreamSource",
    "TableLayout",
    "TableSource",
    "Target",
    "TextAudioDataModule",
    "TextDataModule",
    "TextProcessor",
    "Unlabelled",
    "Waveform",
    "WebDatasetStream",
    "as_batch",
    "content_ids",
    "decode_audio",
    "decode_image",
    "read_audio",
    "read_batch",
    "read_image",
]

if TYPE_CHECKING:
    from lightning_distill.data.audio import AudioProcessor as AudioProcessor
    from lightning_distill.data.audio import decode_audio as decode_audio
    from lightning_distill.data.audio import read_audio as read_audio
    from lightning_distill.data.base import MultimodalDataModule as MultimodalDataModule
    from lightning_distill.data.combinations import AudioDataModule as AudioDataModule
    from lightning_distill.data.combinations import ImageAudioDataModule as ImageAudioDataModule
    from lightning_distill.data.combinations import ImageDataModule as ImageDataModule
    from lightning_distill.data.combinations import ImageTextAudioDataModule as ImageTextAudioDataModule
    from lightning_distill.data.combinations import ImageTextDataModule as ImageTextDataModule
    from lightning_distill.data.combinations import TextAudioDataModule as TextAudioDataModule
    from lightning_distill.data.combinations import TextDataModule as TextDataModule
    from lightning_distill.data.cross_domain import CrossDomainDataModule as CrossDomainDataModule
    from lightning_distill.data.dataset import MultimodalDataset as MultimodalDataset
    from lightning_distill.data.domain_sampling import DomainSampler as DomainSampler
    from lightning_distill.data.domain_subset import DomainSubset as DomainSubset
    from lightning_distill.data.domains import Domains as Domains
    from lightning_distill.data.domains_source import DomainsSource as DomainsSource
    from lightning_distill.data.folder import FolderSource as FolderSource
    from lightning_distill.data.frame import FrameSource as FrameSource
    from lightning_distill.data.hugging_face import HuggingFaceSource as HuggingFaceSource
    from lightning_distill.data.hugging_face_stream import HuggingFaceStream as HuggingFaceStream
    from lightning_distill.data.image import ImageProcessor as ImageProcessor
    from lightning_distill.data.image import decode_image as decode_image
    from lightning_distill.data.image import read_image as read_image
    from lightning_distill.data.image_views import ImageViews as ImageViews
    from lightning_distill.data.lit_data import LitDataStream as LitDataStream
    from lightning_distill.data.manifest import ManifestSource as ManifestSource
    from lightning_distill.data.mapped import MappedDataModule as MappedDataModule
    from lightning_distill.data.mapped import as_batch as as_batch
    from lightning_distill.data.mapped import content_ids as content_ids
    from lightning_distill.data.mapped import read_batch as read_batch
    from lightning_distill.data.orders import ClassBalanced as ClassBalanced
    from lightning_distill.data.orders import LengthBucketed as LengthBucketed
    from lightning_distill.data.orders import ModalityPaired as ModalityPaired
    from lightning_distill.data.orders import Sampling as Sampling
    from lightning_distill.data.orders import Shuffle as Shuffle
    from lightning_distill.data.own_view import OwnView as OwnView
    from lightning_distill.data.pairing import Independent as Independent
    from lightning_distill.data.pairing import PairedByClass as PairedByClass
    from lightning_distill.data.pairing import PairedByRow as PairedByRow
    from lightning_distill.data.pairing import Pairing as Pairing
    from lightning_distill.data.part_stream import PartStream as PartStream
    from lightning_distill.data.partly_labelled import PartlyLabelled as PartlyLabelled
    from lightning_distill.data.processor import Processor as Processor
    from lightning_distill.data.sampling import BatchKey as BatchKey
    from lightning_distill.data.sampling import BatchSampler as BatchSampler
    from lightning_distill.data.shards import ShardSource as ShardSource
    from lightning_distill.data.source import DataSource as DataSource
    from lightning_distill.data.source import SampleTable as SampleTable
    from lightning_distill.data.source import Waveform as Waveform
    from lightning_distill.data.spec_augment import SpecAugment as SpecAugment
    from lightning_distill.data.splits import ColumnSplit as ColumnSplit
    from lightning_distill.data.splits import GroupSplit as GroupSplit
    from lightning_distill.data.splits import RandomSplit as RandomSplit
    from lightning_distill.data.splits import Splitter as Splitter
    from lightning_distill.data.splits import StratifiedSplit as StratifiedSplit
    from lightning_distill.data.stream import StreamSample as StreamSample
    from lightning_distill.data.stream import StreamSource as StreamSource
    from lightning_distill.data.stream_dataset import StreamDataset as StreamDataset
    from lightning_distill.data.table_source import ManifestColumns as ManifestColumns
    from lightning_distill.data.table_source import TableLayout as TableLayout
    from lightning_distill.data.table_source import TableSource as TableSource
    from lightning_distill.data.targets import MultiLabel as MultiLabel
    from lightning_distill.data.targets import RegressionTarget as RegressionTarget
    from lightning_distill.data.targets import SingleLabel as SingleLabel
    from lightning_distill.data.targets import Target as Target
    from lightning_distill.data.text import ByteTextProcessor as ByteTextProcessor
    from lightning_distill.data.text import TextProcessor as TextProcessor
    from lightning_distill.data.unlabelled import Unlabelled as Unlabelled
    from lightning_distill.data.web_dataset import WebDatasetStream as WebDatasetStream


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
