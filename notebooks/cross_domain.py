# %% [markdown]
# # Into a domain that has no labels
#
# You have labels in one domain, the source. You want a model for another, the target, where nobody has labelled anything.
# This notebook goes the whole way, on data that come with the package: a teacher that sees, reads and hears digits in the
# source; what it knows, fused with the target's own data; and a small student of the target that only sees.
#
# It takes about a minute on two CPU threads. `docs/cross-domain.md` explains every part.
#
# **It shows how, not how much.** Images, words and recordings of the target were put together by class, since nobody recorded
# them together. In use they come together by themselves, as a photo and its caption do. Here the classes of the target were
# needed for it, and a word and a recording of the very digit say more than a real caption: what the teacher gains by them in the
# target is a demonstration. All classes are equally frequent, too, which helps terms and validators that count on it. And one
# seed and a small test set say little about small differences. The benchmark is in `docs/cross-domain.md`.

# %%
import logging
import warnings
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from lightning_distill import DistillationModule, FrozenTeacher, MultimodalModel
from lightning_distill.clipping import ValueClip
from lightning_distill.data import (
    AudioProcessor,
    ByteTextProcessor,
    CrossDomainDataModule,
    ImageProcessor,
    MultimodalDataModule,
    PartlyLabelled,
)
from lightning_distill.data.datasets import Digits
from lightning_distill.domain_distance import distinct_rows, mmd_test, proxy_a_distance
from lightning_distill.encoders import ByteTextCNN, ImageCNN, LogMelCNN
from lightning_distill.evaluation import evaluate_subsets
from lightning_distill.feature_clipping import HardClip
from lightning_distill.knowledge_fusion import LabelPropagation, fuse
from lightning_distill.knowledge_writing import write_knowledge
from lightning_distill.losses import (
    EntropyMinimisation,
    LogitKD,
    MaximumMeanDiscrepancy,
    MinimumClassConfusion,
    OnTarget,
)
from lightning_distill.tasks import Classification
from lightning_distill.teachers import StoredTeacher
from lightning_distill.validators import (
    BatchNuclearNorm,
    ImportanceWeightedRisk,
    MutualInformation,
    NegativeEntropy,
    SoftNeighbourhoodDensity,
    TeacherAgreement,
)

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module=r"lightning\.")
quiet = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}

# %% [markdown]
# ## 1. Two domains
#
# | | source | target |
# |---|---|---|
# | image | MNIST | optdigits, 8 x 8 pixels |
# | text | number words of three quarters of the languages | of the other languages |
# | audio | synthetic speech, five accents of English | three other accents, by telephone, with noise |
#
# `PartlyLabelled` hides all labels of the target's training and validation rows. Those of its test rows tell, in this notebook,
# where the student of the source fails, and at the end what came out. Nothing is trained on them or chosen by them.

# %%
sizes = {"train": 1500, "val": 300, "test": 1000}
source, target_with_labels = Digits("source", **sizes), Digits("target", **sizes)
target = PartlyLabelled(target_with_labels)

for name, data in {"source": source, "target": target}.items():
    train = data.samples.rows_of("train")
    print(f"{name}: {len(train)} training rows, {data.samples.labelled(train).sum()} with a label;", end=" ")
    print("words such as", ", ".join(data.load("text", row) for row in train[:10:2]))

# %%
figure, axes = plt.subplots(4, 10, figsize=(10, 4.2), layout="constrained")
spectrogram = AudioProcessor(sample_rate=8000, seconds=0.7, mels=32, hop=0.02, dynamic_range=30)
for first, (name, data) in enumerate({"source": source, "target": target}.items()):
    for digit in range(10):  # the rows take the classes in turn
        sound = spectrogram.collate([spectrogram.prepare(data.load("audio", digit))])
        axes[2 * first, digit].imshow(data.load("image", digit), cmap="gray_r")
        axes[2 * first + 1, digit].imshow(np.squeeze(sound).T, aspect="auto", origin="lower")
    axes[2 * first, 0].set_ylabel(f"{name},\nimage")
    axes[2 * first + 1, 0].set_ylabel(f"{name},\naudio")
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])

# %% [markdown]
# `CrossDomainDataModule` joins any two DataModules. Every batch holds rows of both, so that every term of the loss sees both.
# The teacher is to read three modalities, the students one: the same samples, with other processors.

# %%
plain = {
    "image": ImageProcessor(size=12, channels=1),
    "text": ByteTextProcessor(max_length=64),
    "audio": spectrogram,
}
augmented = {
    "image": ImageProcessor(size=12, channels=1, max_shift=0.08, max_scale=0.2, max_rotation=15),
    "text": ByteTextProcessor(max_length=64),
    "audio": AudioProcessor(
        sample_rate=8000, seconds=0.7, mels=32, hop=0.02, dynamic_range=30, max_shift=0.1
    ),
}


def domains(target, processors):
    one = partial(MultimodalDataModule, processors=processors, batch_size=64, in_memory=True)
    return CrossDomainDataModule(source=one(source), target=one(target))


triples = domains(target, plain)
images = domains(target, {"image": augmented["image"]})

# %% [markdown]
# ## 2. A teacher, and a student of the source only
#
# All trainings of this notebook have the same recipe. Gradients are clipped by the method's rule,
# `g = clip(g, -eps, eps)`, and so is the fused feature.

# %%
STEPS, RATE = 160, 4e-3


def train(model, data, **parts):
    module = DistillationModule(
        model,
        **parts,
        clip_rule=ValueClip(0.01),
        optimizer=partial(AdamW, lr=RATE),
        lr_scheduler=partial(OneCycleLR, max_lr=RATE, total_steps=STEPS, cycle_momentum=False),
        scheduler_interval="step",
    )
    trainer = Trainer(max_steps=STEPS, limit_val_batches=0, num_sanity_val_steps=0, **quiet)
    trainer.fit(module, datamodule=data)
    return model


def new_student():
    seed_everything(0, verbose=False)  # the same start and the same batches for everyone
    return MultimodalModel({"image": ImageCNN(width=16)}, num_classes=10, feature_clip=HardClip(1.0))


accuracy = {}  # name -> domain -> share of the test rows that is right; read by prints and pictures alone


def tell(name, model, data=images):
    (metrics,) = Trainer(**quiet).test(DistillationModule(model), datamodule=data, verbose=False)
    accuracy[name] = {domain: metrics[f"test/{domain}/accuracy"] for domain in data.domains}
    print(f"{name:38}", *(f"{domain} {share:6.1%}  " for domain, share in accuracy[name].items()))


# %% [markdown]
# The teacher learns from the labels of the source. Modality dropout makes each of its encoders learn on its own.

# %%
seed_everything(0, verbose=False)
encoders = {"image": ImageCNN(width=16), "text": ByteTextCNN(width=32), "audio": LogMelCNN(32, 8)}
teacher = MultimodalModel(encoders, num_classes=10, feature_clip=HardClip(1.0), modality_dropout=0.5)
train(teacher, MultimodalDataModule(source, augmented, batch_size=64, in_memory=True))
students = {"source only": train(new_student(), images)}

tell("teacher: image, text and audio", teacher, triples)
tell("source only", students["source only"])
everything = MultimodalDataModule(target_with_labels, plain, in_memory=True)
alone = {}
for result in evaluate_subsets(teacher, everything, Classification(), trainer=Trainer(**quiet)):
    if len(result.modalities) == 1:
        alone[result.modalities[0]] = result.metrics["accuracy"]
print("teacher in the target with one of them:", *(f"{name} {share:.1%}  " for name, share in alone.items()))

# %% [markdown]
# The student is good where its labels come from, and much worse in the target. The teacher loses less: what it hears carries over
# better than what it sees, and what it reads hardly does.
#
# ## 3. Extract, fuse, distil
#
# **Step 1, extraction.** The teacher is asked once about every training and validation row, and its answers are kept as a
# folder of plain arrays; a triple that was drawn twice is there once. On the command line it is `lightning-distill knowledge`.

# %%
place = TemporaryDirectory()
folder = Path(place.name)
rows = chain(triples.train_dataloader(), triples.val_dataloader())
known = write_knowledge(FrozenTeacher(teacher), rows, folder / "teacher")
for name, array in known.arrays.items():
    print(f"{name:16} {array.dtype} {' x '.join(map(str, array.shape))}")

# %% [markdown]
# The folder also tells how far the domains are apart, to the teacher, in each modality. The proxy A-distance is 0 where a linear
# classifier cannot tell the domains apart, and 2 where it makes no mistake. The MMD compares kernel means; its p-value is that of
# a permutation test, of 0.01 at the least. `lightning-distill doctor` measures the same before training.

# %%
figure, axis = plt.subplots(figsize=(6, 1.8), layout="constrained")
a_distance = {}
for modality in teacher.modalities:
    layer = f"features.{modality}"
    here, there = (known.rows(data.samples.sample_id[:400], [layer])[layer] for data in (source, target))
    here, there = (distinct_rows(torch.from_numpy(x.astype("float32"))) for x in (here, there))
    a_distance[modality], mmd = proxy_a_distance(here, there), mmd_test(here[:200], there[:200])
    found = a_distance[modality]
    axis.barh(modality, found.distance, xerr=found.standard_error, color="#0072B2")
    print(f"{modality:6} A-distance {found.distance:.2f} +- {found.standard_error:.2f}", end="   ")
    print(f"squared MMD {mmd.value:.3f}, p = {mmd.p_value:.2f}")
axis.set(xlim=(0, 2.1), xlabel="proxy A-distance of source and target")
axis.invert_yaxis()

# %% [markdown]
# They are apart in every modality, and a distance does not tell where a model fails: the words are closest to each other, and the
# teacher reads those of the target worst. Classes can stay apart while everything moves, and mix though little moves.
#
# **Step 2, fusion with the target's data.** Rows of the target that lie close together in the teacher's embedding are likely of
# one class. `LabelPropagation` makes an answer agree with those about its neighbours, where the labels of the source are known.
# No label of the target is read. On the command line it is `lightning-distill fuse`.

# %%
fused = fuse([known], triples.source, triples.targets, [LabelPropagation(neighbours=10, alpha=0.8)])
fused.write(folder / "fused")
numbers = fused.numbers
print(f"{numbers.changed} of {numbers.target_samples} answers about the target are others now")
print(f"mean entropy {numbers.entropy_before:.2f} before, {numbers.entropy_after:.2f} nats after")
print("answers a class before:", *numbers.counts_before)
print("answers a class after: ", *numbers.counts_after)

# %% [markdown]
# **Step 3, distillation.** The student sees images of both domains: labels of the source, and of the target what the folder
# says. The teacher itself is not needed any more. `OnTarget` puts a term on the target's rows alone. Fused answers are softer, so
# they are taken at temperature 1.

# %%
extracted, refined = StoredTeacher(folder / "teacher"), StoredTeacher(folder / "fused")
half = {"task": 0.5, "kd": 0.5}

students["distilled"] = train(
    new_student(), images, teacher=extracted, losses={"kd": OnTarget(LogitKD(temperature=2.0))}, weights=half
)
students["fused, distilled"] = train(
    new_student(), images, teacher=refined, losses={"kd": OnTarget(LogitKD(temperature=1.0))}, weights=half
)

# %% [markdown]
# ## 4. Terms between domains
#
# They need no teacher, and nothing but images here: no student below but the last has anything to do with how the
# triples were made.
# MMD draws the features of the two domains together. Minimum class confusion (MCC) and entropy minimisation ask the target's
# answers to be clear. Any of them stands beside distillation.

# %%
students["MMD"] = train(new_student(), images, losses={"mmd": MaximumMeanDiscrepancy("features.image")})
students["MCC"] = train(new_student(), images, losses={"mcc": MinimumClassConfusion()})
students["entropy"] = train(new_student(), images, losses={"entropy": EntropyMinimisation()})
students["fused, distilled, MCC"] = train(
    new_student(),
    images,
    teacher=refined,
    losses={"kd": OnTarget(LogitKD(temperature=1.0)), "mcc": MinimumClassConfusion()},
    weights={**half, "mcc": 0.3},
)

# %% [markdown]
# ## 5. Choosing without target labels
#
# We have seven students and may keep one. Nobody has labels of the target to choose by. Validators are callbacks that log
# `val/validator/<name>`, higher is better; the labels of the target's rows are hidden from them in any case. Here every student is
# validated once, at the end; in a training they can be monitored by `ModelCheckpoint` and `EarlyStopping`.

# %%
kinds = [
    NegativeEntropy,
    MutualInformation,
    BatchNuclearNorm,
    SoftNeighbourhoodDensity,
    ImportanceWeightedRisk,
    TeacherAgreement,
]
scores = {kind.name: {} for kind in kinds}
for name, student in students.items():
    judge = Trainer(callbacks=[kind() for kind in kinds], **quiet)
    module = DistillationModule(student, teacher=refined)
    (metrics,) = judge.validate(module, datamodule=images, verbose=False)
    for validator, values in scores.items():
        values[name] = metrics[f"val/validator/{validator}"]
chosen = {validator: max(values, key=values.get) for validator, values in scores.items()}
for validator, name in chosen.items():
    print(f"{validator:30} chooses   {name}")

# %% [markdown]
# Now the choice is made, and we look at the labels of the target's test rows.

# %%
for name in list(students)[1:]:
    tell(name, students[name])

# %%
figure, axes = plt.subplots(2, 3, figsize=(10, 5.6), sharey=True, layout="constrained")
for axis, (validator, values) in zip(axes.flat, scores.items(), strict=True):
    for marker, name in zip("osD^vPX", students, strict=True):
        point = values[name], 100 * accuracy[name]["target"]
        axis.scatter(*point, marker=marker, s=60, label=name)
        if name == chosen[validator]:
            axis.scatter(*point, s=260, facecolors="none", edgecolors="black")
    axis.set(ylim=(0, 105))
    axis.set_title(validator.replace("_", " "), fontsize=10)
figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
figure.suptitle("A good validator rises with the accuracy nobody knows; its choice is circled", fontsize=11)
for axis in axes[:, 0]:
    axis.set_ylabel("target accuracy, %")

# %% [markdown]
# The student with entropy minimisation was trained to be sure. It gives most of the target to few classes and is sure of it, so
# what asks only whether answers are clear, or lie close together, takes it for a good one. `MutualInformation` and
# `BatchNuclearNorm` also ask that all classes occur; but a student of the softer, fused answers is less sure even where it is
# right, and they put it behind. `ImportanceWeightedRisk` counts right answers on rows of the source that look like the target's,
# and between domains this far apart few do. `TeacherAgreement` favours whom that teacher has taught, and would do so as well if the
# teacher were wrong. Measure several, and do not choose by what was trained.
#
# ## 6. What it gave
#
# The ceiling is a student with all labels of the target. The dashed line is the student of the source only.

# %%
students["ceiling: target labels"] = train(
    new_student(), domains(target_with_labels, {"image": augmented["image"]})
)
tell("ceiling: target labels", students["ceiling: target labels"])

ids = target.samples.sample_id[target.samples.rows_of("train")]
truth = target_with_labels.samples.target[target.samples.rows_of("train")]
right = {
    name: float((stored.knowledge.rows(ids, ["logits"])["logits"].argmax(axis=1) == truth).mean())
    for name, stored in {"extracted": extracted, "fused": refined}.items()
}
for name, share in right.items():
    print(f"{name:20} right about {share:.1%} of the target's training rows")
gap = accuracy["ceiling: target labels"]["target"] - accuracy["source only"]["target"]
for name in ("MCC", "distilled", "fused, distilled"):
    gained = accuracy[name]["target"] - accuracy["source only"]["target"]
    print(f"{name:20} closes {gained / gap:.0%} of the gap")

# %%
figure, axis = plt.subplots(figsize=(8, 3.4), layout="constrained")
order = sorted(students, key=lambda name: accuracy[name]["target"])
bars = axis.barh(order, [100 * accuracy[name]["target"] for name in order], color="#0072B2")
axis.bar_label(bars, fmt="%.1f", padding=3)
bars[order.index("ceiling: target labels")].set_color("#999999")
axis.axvline(100 * accuracy["source only"]["target"], color="black", linestyle="--", linewidth=1)
axis.set(xlim=(0, 108), xlabel="accuracy on the target's test rows, %")
place.cleanup()

# %% [markdown]
# Alignment helps a student that has nothing but images, and a teacher that knows more of the target helps far more. With your own
# data, start from `configs/experiment/digits_cross_domain.yaml`, and let `lightning-distill doctor` look at the domains first.
