# %% [markdown]
# # Your own data
#
# A table with a column a modality and a column of labels is enough. This notebook writes one, with photos and sounds, and goes from it
# to a student that answers raw files. Put your own table in its place and leave out the second cell. It takes a few seconds.

# %%
import csv
import logging
import warnings
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import matplotlib.pyplot as plt
import numpy as np
import soundfile
from lightning.pytorch import Trainer, seed_everything
from torch.optim import AdamW

from lightning_distill import DistillationModule, FrozenTeacher, MultimodalModel, Student
from lightning_distill.clipping import ValueClip
from lightning_distill.data import (
    AudioProcessor,
    ByteTextProcessor,
    ImageProcessor,
    ManifestSource,
    MultimodalDataModule,
    StratifiedSplit,
)
from lightning_distill.encoders import ByteTextCNN, ImageCNN, LogMelCNN
from lightning_distill.evaluation import evaluate_subsets
from lightning_distill.losses import LogitKD
from lightning_distill.tasks import Classification

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module=r"lightning\.")
quiet = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}

# %% [markdown]
# ## A table
#
# Three kinds of alarm: each has a lamp of some colour, a note that somebody wrote, and a sound of some pitch. All three are noisy. Every
# fifth row has no note and every seventh no image: an empty cell is a missing modality. An empty label would be an unlabelled row.

# %%
place = TemporaryDirectory()
folder = Path(place.name)
rng = np.random.default_rng(0)
kinds = {
    "fire": ((220, 60, 40), 880, ["smoke seen", "it is hot", "fire"]),
    "water": ((50, 90, 220), 440, ["floor is wet", "a leak", "water"]),
    "gas": ((210, 190, 60), 220, ["a smell", "air is bad", "gas"]),
}
table = []
for i in range(180):
    kind = list(kinds)[i % 3]
    colour, pitch, notes = kinds[kind]
    pixels = rng.normal(colour, 70, size=(24, 24, 3)).clip(0, 255).astype(np.uint8)
    cv2.imwrite(str(folder / f"{i}.png"), pixels[..., ::-1])
    times = np.arange(2400) / 8000
    sound = np.sin(2 * np.pi * pitch * rng.uniform(0.9, 1.1) * times) + rng.normal(0, 0.5, times.shape)
    soundfile.write(folder / f"{i}.wav", 0.3 * sound, 8000)
    note = rng.choice(notes) if i % 5 else ""
    image = f"{i}.png" if i % 7 else ""
    table.append({"image": image, "text": note, "audio": f"{i}.wav", "label": kind})
with (folder / "alarms.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, fieldnames=["image", "text", "audio", "label"])
    writer.writeheader()
    writer.writerows(table)
print(*(folder / "alarms.csv").read_text().splitlines()[:6], sep="\n")

# %% [markdown]
# ## Read it
#
# `ManifestSource` checks the whole table and that every file is there, and names what is wrong with its row and column. Rows are
# split by class here; a column `split`, groups and times are other ways (`docs/data.md`). On the command line,
# `lightning-distill init alarms.csv --out run.yaml` writes the configs of a teacher and a student.

# %%
source = ManifestSource(
    folder / "alarms.csv",
    modalities={"image": "image", "text": "text", "audio": "audio"},
    splitter=StratifiedSplit(val_share=0.1, test_share=0.3),
)
processors = {
    "image": ImageProcessor(size=24),
    "text": ByteTextProcessor(max_length=16),
    "audio": AudioProcessor(sample_rate=8000, seconds=0.3, mels=32, hop=0.02),
}
data = MultimodalDataModule(source, processors, batch_size=20)
for split in ("train", "val", "test"):
    print(f"{split:6} {len(source.samples.rows_of(split))} rows")

figure, axes = plt.subplots(1, 6, figsize=(10, 2), layout="constrained")
seen = [row for row in source.samples.rows_of("train") if table[row]["image"]]
for axis, row in zip(axes, seen, strict=False):
    axis.imshow(source.load("image", row))
    axis.set(xticks=[], yticks=[], title=table[row]["label"])

# %% [markdown]
# ## A teacher on everything
#
# What a missing modality's tensor holds changes neither an output nor a gradient. `modality_dropout` hides more of them in
# training, so that the teacher does not lean on one. `evaluate_subsets` tells what each set of them is good for.

# %%
recipe = {"clip_rule": ValueClip(0.01), "optimizer": partial(AdamW, lr=4e-3)}
once = {"max_epochs": 4, "limit_val_batches": 0, **quiet}

seed_everything(0, verbose=False)
encoders = {"image": ImageCNN(width=8, channels=3), "text": ByteTextCNN(width=16), "audio": LogMelCNN(32, 8)}
teacher = MultimodalModel(encoders, num_classes=3, modality_dropout=0.3)
Trainer(**once).fit(DistillationModule(teacher, **recipe), datamodule=data)

results = evaluate_subsets(teacher, data, Classification(), trainer=Trainer(**quiet))
shares = {" + ".join(found.modalities): found.metrics["accuracy"] for found in results}
for name, share in shares.items():
    print(f"{name:24} {share:.1%}")

# %% [markdown]
# ## A student with one sense
#
# In use there is only a microphone. The student hears; the teacher, while the student is trained, also sees and reads.

# %%
seed_everything(0, verbose=False)
student = MultimodalModel({"audio": LogMelCNN(32, 8)}, num_classes=3)
student.classes = tuple(kinds)
module = DistillationModule(
    student,
    teacher=FrozenTeacher(teacher),
    losses={"kd": LogitKD(temperature=2.0)},
    weights={"task": 0.5, "kd": 0.5},
    **recipe,
)
Trainer(**once).fit(module, datamodule=data)

# %% [markdown]
# ## Raw files in, answers out

# %%
listener = Student(student, {"audio": processors["audio"]})
heard = source.samples.rows_of("test")[:6]
for row, answer in zip(heard, listener.predict([{"audio": folder / f"{row}.wav"} for row in heard]), strict=True):
    said = ", ".join(f"{name} {share:.2f}" for name, share in answer.probabilities.items())
    print(f"it was {table[row]['label']:6} heard as {answer.label:6} ({said})")
place.cleanup()
