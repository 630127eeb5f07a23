# %% [markdown]
# # Drop-in: distillation and clipping in a module of your own
#
# You have a LightningModule and a DataModule that know nothing of this library, and want to keep them. Two callbacks are enough:
# `Distill` adds terms to the loss, `ClipGradients` edits gradients before the step. It takes a few seconds.

# %%
import logging
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_distill.callbacks import ClipGradients, Distill
from lightning_distill.clipping import SkipNonFinite, ValueClip
from lightning_distill.losses import Hint, LogitKD

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
# ## Somebody's module
#
# Two spirals, which a small network finds hard to tell apart from a few points. Nothing here is of this library.


# %%
class Mine(LightningModule):
    def __init__(self, width):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.net(x))

    def training_step(self, batch, _):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def spirals(count, noise, seed):
    rng = np.random.default_rng(seed)
    angle, side = 2.2 * np.pi * np.sqrt(rng.random(count)), rng.integers(0, 2, count)
    turned = angle + np.pi * side
    points = np.stack([np.cos(turned), np.sin(turned)], 1) * angle[:, None] / 5
    return TensorDataset(
        torch.tensor(points + rng.normal(0, noise, points.shape), dtype=torch.float32), torch.tensor(side)
    )


def train(module, data, epochs, *callbacks):
    Trainer(max_epochs=epochs, callbacks=list(callbacks), **quiet).fit(module, DataLoader(data, 64, shuffle=True))
    x, y = test.tensors
    return (module(x).argmax(1) == y).double().mean().item()


many, few, test = spirals(2048, 0.03, 0), spirals(64, 0.03, 1), spirals(2000, 0.03, 2)

# %% [markdown]
# ## A teacher, and the student alone
#
# The teacher is any module. It has seen many points with labels, the student few.

# %%
accuracy = {}
seed_everything(0, verbose=False)
teacher = Mine(64)
accuracy["teacher"] = train(teacher, many, 10)


def new_student():
    seed_everything(1, verbose=False)
    return Mine(24)


students = {"alone": new_student()}
accuracy["alone"] = train(students["alone"], few, 50)
for name, share in accuracy.items():
    print(f"{name:10} {share:.1%}")

# %% [markdown]
# ## One callback
#
# The layers that hold the logits are named by their path; the teacher is not trained, and not saved with the student. `weights` are those
# of the module's own loss, called `task`, and of each term.

# %%
terms = {"kd": LogitKD(temperature=1.0)}
distill = Distill(teacher, terms, {"task": 0.1, "kd": 0.9}, logits="head")
students["distilled"] = new_student()
accuracy["distilled"] = train(students["distilled"], few, 50, distill)
print(f"distilled  {accuracy['distilled']:.1%}")

# %% [markdown]
# ## Points without labels
#
# On points whose labels it has, a teacher that is sure of itself tells the student little that is new. What it says about others
# needs no label, and that is where it helps. Here the student also gets points of the teacher, with their labels hidden
# (-100 is what `cross_entropy` leaves out), and follows one of its layers, too: `Hint` learns a map from the student's layer to the
# teacher's, which the optimizer trains with the rest.

# %%
x, hidden = many.tensors[0][:448], torch.full((448,), -100)
joined = TensorDataset(torch.cat([few.tensors[0], x]), torch.cat([few.tensors[1], hidden]))
terms = {"kd": LogitKD(temperature=1.0), "hint": Hint("net", "net")}
distill = Distill(teacher, terms, {"task": 0.1, "kd": 0.9, "hint": 0.1}, logits="head")
students["with unlabelled"] = new_student()
accuracy["with unlabelled"] = train(students["with unlabelled"], joined, 30, distill)
for name, share in accuracy.items():
    print(f"{name:16} {share:.1%}")

# %%
side = torch.linspace(-1.7, 1.7, 80)
grid = torch.cartesian_prod(side, side)
figure, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
for axis, (name, module) in zip(axes, {"teacher": teacher, **students}.items(), strict=True):
    with torch.no_grad():
        axis.pcolormesh(side, side, module(grid).softmax(1)[:, 1].reshape(80, 80).T, cmap="RdBu", vmin=0, vmax=1)
    points, labels = (many if name == "teacher" else few).tensors
    axis.scatter(*points[:64].T, c=labels[:64], cmap="RdBu", edgecolors="white", s=16)
    axis.set(xticks=[], yticks=[], title=f"{name}: {accuracy[name]:.0%}")

# %% [markdown]
# ## The other callback
#
# One of 512 points is broken, infinitely far away. Its gradient is not finite, and one step with it makes an end of all weights.
# `ClipGradients` takes any rule: here the method's, by value, with a guard around it that leaves such steps out and says so.

# %%
warnings.filterwarnings("ignore", message=r"step .* is skipped")  # one in an epoch
broken = TensorDataset(joined.tensors[0].clone(), torch.cat([few.tensors[1], many.tensors[1][:448]]))
broken.tensors[0][0] = torch.inf
rule = SkipNonFinite(ValueClip(0.01))
for name, callbacks in {"without": [], "ClipGradients": [ClipGradients(rule)]}.items():
    module = new_student()
    share = train(module, broken, 30, *callbacks)
    finite = all(bool(p.isfinite().all()) for p in module.parameters())
    print(f"{name:14} {share:.1%} right, weights are {'finite' if finite else 'not finite'}")
