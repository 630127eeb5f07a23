# %% [markdown]
# # The range of the clip
#
# The method clips gradients by value, `g = clip(g, -eps, eps)`. What is a good eps? Too wide, and it does nothing; too narrow, and every
# step has the same size. This notebook looks at gradients, lets `ClipRangeFinder` choose, and shows where a rule pays and where it does
# not. It takes some seconds on one CPU thread; `docs/choosing-the-clip-range.md` has the rest.

# %%
import logging
import warnings
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.optim import SGD

from lightning_distill import DistillationModule, MultimodalModel
from lightning_distill.clipping import ValueClip
from lightning_distill.data import ImageProcessor, MultimodalDataModule
from lightning_distill.data.datasets import Digits
from lightning_distill.encoders import ImageCNN
from lightning_distill.errors import NonFiniteError
from lightning_distill.range_finding import ClipRangeFinder, GradientRange

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module=r"lightning\.")
quiet = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}

digits = Digits("target", train=600, val=300, test=500)
data = MultimodalDataModule(
    digits, {"image": ImageProcessor(size=8, channels=1)}, batch_size=50, in_memory=True
)

# %% [markdown]
# ## What the gradients look like
#
# One batch of a fresh model: entries of a gradient span many orders of magnitude. A rule by value touches those beyond eps and
# leaves the others to the bit.

# %%
seed_everything(0, verbose=False)
module = DistillationModule(MultimodalModel({"image": ImageCNN(width=8)}, num_classes=10))
data.setup("fit")
batch = next(iter(data.train_dataloader()))
torch.nn.functional.cross_entropy(module.student(batch).logits, batch["target"]).backward()
entries = torch.cat([p.grad.flatten() for p in module.student.parameters()]).abs()
entries = entries[entries > 0]

figure, axis = plt.subplots(figsize=(7, 2.2), layout="constrained")
axis.hist(entries.log10().numpy(), bins=60, color="#0072B2")
axis.set(xlabel="log10 of the size of an entry", ylabel="entries")
for epsilon in (0.1, 0.01, 0.001):
    axis.axvline(np.log10(epsilon), color="black", linestyle=":")
    print(f"eps = {epsilon:<6} clips {(entries > epsilon).double().mean():6.1%} of the entries")


# %% [markdown]
# ## Let it be chosen
#
# `ClipRangeFinder` trains once without a rule and records quantiles of the gradients; these are the candidates. A handful of
# trainings from the same start follows; of those that cannot be told from the best by validation, the one that changes least is
# taken. On the command line it is `lightning-distill find-clip --config run.yaml`, and with `--learning-rates` it chooses eps and the
# learning rate together, since the one moves the other.


# %%
def fresh(rule=None, rate=0.1):
    seed_everything(0, verbose=False)
    model = MultimodalModel({"image": ImageCNN(width=8)}, num_classes=10)
    return DistillationModule(model, clip_rule=rule, optimizer=partial(SGD, lr=rate, momentum=0.9))


result = ClipRangeFinder(fresh, data, {"max_epochs": 2, **quiet}, GradientRange(), trials=4).run()
for trial in result.trials:
    epsilon = "no clip" if trial.choice.epsilon is None else f"{trial.choice.epsilon:.2g}"
    value = "stopped" if trial.value is None else f"{trial.value:.1%}"
    print(f"{epsilon:10} {value:8} {trial.choice.why:14} {'<- chosen' if trial is result.chosen else ''}")

# %% [markdown]
# ## Where it pays
#
# With SGD the step is proportional to the gradient, so that a large learning rate is what hurts and a bound is what helps. Each training
# below has two epochs. Where the loss is not finite, training stops and says where it began.

# %%
rates, accuracy = (0.01, 0.1, 1.0), {"no clip": [], "ValueClip(0.01)": []}
for name, shares in accuracy.items():
    for rate in rates:
        module = fresh(None if name == "no clip" else ValueClip(0.01), rate)
        try:
            Trainer(max_epochs=2, limit_val_batches=0, **quiet).fit(module, datamodule=data)
        except NonFiniteError as error:
            print(str(error).partition(";")[0])  # the weights are those of the step before
        (metrics,) = Trainer(**quiet).test(module, datamodule=data, verbose=False)
        shares.append(metrics["test/accuracy"])
    print(f"{name:16}", *(f"rate {rate}: {share:6.1%}  " for rate, share in zip(rates, shares, strict=True)))

figure, axis = plt.subplots(figsize=(5, 2.6), layout="constrained")
axis.set(xlabel="learning rate of SGD", ylabel="right on the test rows, %", ylim=(0, 100))
for name, shares in accuracy.items():
    axis.semilogx(rates, [100 * share for share in shares], "o-", label=name)
for line in axis.lines:
    axis.annotate(line.get_label(), (rates[1], line.get_ydata()[1]), xytext=(0, 7), textcoords="offset points")

# %% [markdown]
# Two epochs are the beginning of a training, and this is one seed on an easy set. In complete trainings, with a learning rate chosen
# for each, a rule on gradients was worth nothing on clean data; broken samples and large rates are where it pays
# (`docs/clip-study.md`).
