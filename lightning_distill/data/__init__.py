"""Data: sources, preprocessing per modality, DataModules per modality combination."""

from lightning_distill.data.audio import AudioProcessor, decode_audio, read_audio
from lightning_distill.data.base import MultimodalDataModule
from lightning_distill.data.combinations import (
    AudioDataModule,
    ImageAudioDataModule,
    ImageDataModule,
    ImageTextAudioDataModule,
    ImageTextDataModule,
    TextAudioDataModule,
    TextDataModule,
)
from lightning_distill.data.cross_domain import CrossDomainDataModule
from lightning_distill.data.dataset import MultimodalDataset
from lightning_distill.data.domain_sampling import DomainSampler
from lightning_distill.data.domain_subset import DomainSubset
from lightning_distill.data.domains import Domains
from lightning_distill.data.domains_source import DomainsSource
from lightning_distill.data.folder import FolderSource
from lightning_distill.data.frame import FrameSource
from lightning_distill.data.hugging_face import HuggingFaceSource
from lightning_distill.data.hugging_face_stream import HuggingFaceStream
from lightning_distill.data.image import ImageProcessor, decode_image, read_image
from lightning_distill.data.image_views import ImageViews
from lightning_distill.data.lit_data import LitDataStream
from lightning_distill.data.manifest import ManifestSource
from lightning_distill.data.mapped import MappedDataModule, as_batch, content_ids, read_batch
from lightning_distill.data.orders import ClassBalanced, LengthBucketed, ModalityPaired, Sampling, Shuffle
from lightning_distill.data.own_view import OwnView
from lightning_distill.data.pairing import Independent, PairedByClass, PairedByRow, Pairing
from lightning_distill.data.part_stream import PartStream
from lightning_distill.data.partly_labelled import PartlyLabelled
from lightning_distill.data.processor import Processor
from lightning_distill.data.sampling import BatchKey, BatchSampler
from lightning_distill.data.shards import ShardSource
from lightning_distill.data.source import DataSource, SampleTable, Waveform
from lightning_distill.data.spec_augment import SpecAugment
from lightning_distill.data.splits import ColumnSplit, GroupSplit, RandomSplit, Splitter, StratifiedSplit
from lightning_distill.data.stream import StreamSample, StreamSource
from lightning_distill.data.stream_dataset import StreamDataset
from lightning_distill.data.table_source import ManifestColumns, TableLayout, TableSource
from lightning_distill.data.targets import MultiLabel, RegressionTarget, SingleLabel, Target
from lightning_distill.data.text import ByteTextProcessor, TextProcessor
from lightning_distill.data.unlabelled import Unlabelled
from lightning_distill.data.web_dataset import WebDatasetStream

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
