"""Encoders that give tokens inside the model: checks, clips, absence, answers from parts, configs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_distill.cli.parsing import parsed_config
from lightning_distill.encoders import ByteTextCNN, Encoder, ImageCNN, LogMelCNN
from lightning_distill.errors import ConfigError
from lightning_distill.feature_clipping import BoundaryClip, HardClip, NormBallClip
from lightning_distill.fusion import FusionHead, GatedFusion
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import Tokens
from tests.builders import DIMS, TokenEncoder, VectorEncoder, make_batch, make_model
from tests.test_model import assert_same_answer, spoiled
