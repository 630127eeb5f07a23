"""Pseudo-labels: the teacher's most likely class stands in for a label that is not there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.history import History
from lightning_distill.losses.base import Adapted, Shapes
from lightning_distill.ranks import alone
from lightning_distill.structures import UNLABELLED, Batch, ModelOutput, Outputs, labelled_rows


def pseudo_labels(
    teacher_logits: Tensor,
    labelled: Tensor,
    threshold: float | Tensor = 0.9,
    ratio: Tensor | None = None,
) -> Tensor:
    """y_i = argmax_c q_ic where row i has no label and max_c q_ic >= threshold, else `UNLABELLED`.

    q_i = softmax(t_i), or q_ic = softmax(t_i)_c ratio_c / sum_k softmax(t_i)_k ratio_k. An answer that is not
    finite is no label.

    Args:
        teacher_logits: t, "batch classes".
        labelled: bool "batch", rows with a label of their own.
        threshold: Least probability of the most likely class; 0-d where it is a tensor.
        ratio: float "classes", how much more often each class is wanted than it is said; None is 1 for all.

    Returns:
        int64 "batch".

    Source: Sohn et al., FixMatch (2001.07685), section 2.1; the ratio is that of Berthelot et al., ReMixMatch
    (1911.09785), section 3.1.

    >>> logits = torch.tensor([[0.0, 5.0], [0.0, 1.0], [5.0, 0.0]])
    >>> pseudo_labels(logits, torch.tensor([False, False, True])).tolist()
    [1, -100, -100]
    """
    said = _said(teacher_logits)
    if ratio is not None:
        said = said * ratio
        said = said / said.sum(dim=1, keepdim=True).clamp(min=torch.finfo(said.dtype).tiny)
    confidence, classes = said.max(dim=1)
    # What is not finite has a confidence of 0, which a threshold of 0 would let pass.
    return classes.masked_fill(labelled | (confidence < threshold) | (confidence == 0), UNLABELLED)


def pseudo_label_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labelled: Tensor,
    threshold: float | Tensor = 0.9,
    ratio: Tensor | None = None,
) -> Tensor:
    """-(1/U) * sum_i log softmax(s_i)_{y_i} over the rows that have a pseudo-label y_i, in nats.

    U counts all rows without a label, also those the teacher is not sure of: the term grows as the teacher
    gets surer, and one sure row in a batch does not weigh as much as a batch of them.

    Args:
        student_logits: s, "batch classes".
        teacher_logits: "batch classes"; no gradient flows into it.
        labelled: bool "batch", rows with a label of their own, which are left out.
        threshold: As for `pseudo_labels`.
        ratio: As for `pseudo_labels`.

    Returns:
        0-d tensor >= 0; 0 with a gradient of 0 where no row has a pseudo-label.

    Source: FixMatch (2001.07685), equation 4, which divides by all unlabelled rows too. There student and
    teacher are one model that sees a strong and a weak augmentation.

    >>> logits = torch.tensor([[0.0, 3.0], [0.0, 1.0]])
    >>> labelled = torch.tensor([False, False])
    >>> round(pseudo_label_loss(logits, logits, labelled).item(), 4)  # half of log(1 + e^-3)
    0.0243
    """
    return _cross_entropy(student_logits, pseudo_labels(teacher_logits, labelled, threshold, ratio), labelled)


class PseudoLabels(History, Adapted):
    """`pseudo_label_loss` on the rows of a batch without a label, with control of confidence and balance.

    Confidence: a pseudo-label needs a probability of tau = threshold, or with `relative` of threshold times
    the teacher's mean confidence (1/L) sum_i max_c softmax(t_i)_c on the batch's L labelled rows: a teacher
    that is never as sure as 0.9 can still teach. Without such rows in the batch, tau = threshold.

    Balance: ratio_c = (n prior_c + 1) / (n mean_c + 1). mean is the running mean of the teacher's
    probabilities on unlabelled rows; prior is the running class share of the labels, or given. Each row
    counts as much as another, and momentum^k times as much k batches later, so the first means are not
    biased. n is how many rows are behind the smaller of the two (behind the mean, if the prior is given): the
    + 1 stand for one more row of each class, which keeps the ratio near 1 while little is known. The means
    are those of all processes, and move in training only.

    Where target labels are hidden no label of the target is read: the prior comes from the rows that have a
    label, those of the source. It is therefore right if the classes are as frequent in the target as there;
    give `prior` where they are known not to be. It is made of labels and not, as in AdaMatch, of answers on
    the source, since a teacher from elsewhere need not know the source.

    Do not wrap it in `OnTarget`, which hides the labelled rows of the source; unlabelled rows of the source,
    if any, are taught too. `kept_share`, 0-d, is the share of the unlabelled rows of the last batch that had
    a pseudo-label. In evaluation only rows without a label count, so the term is 0 where all have one.

    Args:
        threshold: Between 0 and 1; 0 takes every row without a label.
        relative: Whether it is a share of the confidence on labelled rows.
        balanced: Whether classes that are said too often are held back.
        prior: Share of each class in the target, if known from elsewhere; None takes the labels' share.
        momentum: In [0, 1); 0.99 remembers about a hundred batches.

    Raises:
        ConfigError: If threshold, prior or momentum are out of range; at setup, if the prior is of other
            classes.

    Source: FixMatch (2001.07685), section 2.1; relative confidence: Roelofs et al., AdaMatch (2106.04732),
    section 3.3; balance: ReMixMatch (1911.09785), section 3.1. The authors take the mean of the last 128
    batches and add 1e-6 where + 1 / n is added here. AdaMatch's code has the same mean, and for the source an
    exponential one that begins at 1 / C.
    """

    suits: ClassVar[frozenset[Outputs]] = frozenset({Outputs.CLASSES})
    student_layers = ("logits",)
    labels_seen: Tensor
    """float32 "classes", labels so far, older ones discounted."""
    said: Tensor
    """float32 "classes", sum of the teacher's probabilities so far, older ones discounted."""

    def __init__(
        self,
        threshold: float = 0.9,
        relative: bool = True,
        balanced: bool = True,
        prior: list[float] | None = None,
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        _check(threshold, balanced, prior, momentum)
        self.threshold, self.relative, self.balanced = threshold, relative, balanced
        self.prior, self.momentum = prior, momentum
        self.kept_share = torch.zeros(())

    def build(self, student: Shapes, teacher: Shapes) -> None:
        """One count a class."""
        ((classes,),) = student
        if self.prior is not None and len(self.prior) != classes:
            raise ConfigError(
                where="PseudoLabels.prior",
                found=f"{len(self.prior)} shares for {classes} classes",
                expected="one for each class",
                fix="give the share of each class, in the order of the classes",
            )
        for name in ("labels_seen", "said"):
            self.register_buffer(name, torch.zeros(classes, dtype=torch.float32))

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor, nats."""
        labelled = labelled_rows(batch["target"])
        threshold = self._look(teacher.logits, labelled, batch["target"])
        chosen = pseudo_labels(teacher.logits, labelled, threshold, self.ratio() if self.balanced else None)
        self.kept_share = (chosen != UNLABELLED).sum() / (~labelled).sum().clamp(min=1)
        return _cross_entropy(student.logits, chosen, labelled)

    def ratio(self) -> Tensor:
        """float32 "classes", what the teacher's probabilities are multiplied by."""
        rows = self.said.sum()
        mean = self.said / rows.clamp(min=1)
        if self.prior is not None:
            prior = self.said.new_tensor(self.prior) / math.fsum(self.prior)
        else:
            labels = self.labels_seen.sum()
            prior, rows = self.labels_seen / labels.clamp(min=1), torch.minimum(rows, labels)
        return (rows * prior + 1) / (rows * mean + 1)

    @torch.no_grad()
    def _look(self, logits: Tensor, labelled: Tensor, target: Tensor) -> Tensor:
        """Count a batch, in training; return how sure the teacher must be, 0-d."""
        said, there = _said(logits), labelled[:, None]
        labels = F.one_hot(target.masked_fill(~labelled, 0), said.shape[1]) * there
        sure = (said.amax(dim=1) * labelled).sum()
        seen = torch.cat([labels.sum(dim=0), (said * ~there).sum(dim=0), sure[None]])
        if self.training and not alone():
            dist.all_reduce(seen)
        counts, (sure,) = seen[:-1].view(2, -1), seen[-1:]
        if self.training:
            for total, new in zip((self.labels_seen, self.said), counts, strict=True):
                total.mul_(torch.where(new.sum() > 0, self.momentum, 1.0)).add_(new)
        rows = counts[0].sum()
        mean = torch.where(rows > 0, sure / rows.clamp(min=1), 1.0) if self.relative else rows.new_ones(())
        return self.threshold * mean

    def extra_repr(self) -> str:
        """Show the settings."""
        names = ("threshold", "relative", "balanced", "prior", "momentum")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


def _said(logits: Tensor) -> Tensor:
    """Probabilities "batch classes", at least float32; 0 for a row that is not finite."""
    wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    return wide.softmax(dim=1).nan_to_num(0.0)


def _cross_entropy(student_logits: Tensor, chosen: Tensor, labelled: Tensor) -> Tensor:
    wide = student_logits.to(torch.promote_types(student_logits.dtype, torch.float32))
    total = F.cross_entropy(wide, chosen, ignore_index=UNLABELLED, reduction="sum")
    return (total / (~labelled).sum().clamp(min=1)).to(student_logits.dtype)


def _check(threshold: float, balanced: bool, prior: Sequence[float] | None, momentum: float) -> None:
    if not 0 <= threshold <= 1:
        raise ConfigError(
            where="PseudoLabels.threshold",
            found=threshold,
            expected="a probability, 0 to 1",
            fix="try 0.9; 0 takes every row without a label",
        )
    if not 0 <= momentum < 1:
        raise ConfigError(
            where="PseudoLabels.momentum", found=momentum, expected="0 or more, and below 1", fix="try 0.99"
        )
    if prior is None:
        return
    if not balanced:
        raise ConfigError(
            where="PseudoLabels.prior",
            found="class shares, and balanced false",
            expected="shares only where classes are balanced",
            fix="set balanced to true, or leave the prior out",
        )
    if not all(math.isfinite(share) and share >= 0 for share in prior) or not any(prior):
        raise ConfigError(
            where="PseudoLabels.prior",
            found=prior,
            expected="one number of 0 or more for each class, not all 0",
            fix="give the share of each class; they are divided by their sum",
        )
