"""Every term as one writes it first: what `losses.py` compares with. Pure functions of the same arguments."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def logit_kd(s: Tensor, t: Tensor, temperature: float = 4.0) -> Tensor:
    log_p, p = F.log_softmax(s / temperature, dim=1), F.softmax(t / temperature, dim=1)
    return F.kl_div(log_p, p, reduction="batchmean") * temperature**2


def decoupled_kd(s: Tensor, t: Tensor, target: Tensor, temperature: float = 4.0) -> Tensor:
    own = F.one_hot(target, s.shape[1]).bool()
    p_s, p_t = F.softmax(s / temperature, dim=1), F.softmax(t / temperature, dim=1)
    two_s, two_t = (torch.stack([(p * own).sum(1), (p * ~own).sum(1)], dim=1) for p in (p_s, p_t))
    against = F.kl_div(two_s.log(), two_t, reduction="batchmean")
    rest_s = F.log_softmax(s / temperature - 1000.0 * own, dim=1)
    rest_t = F.softmax(t / temperature - 1000.0 * own, dim=1)
    among = F.kl_div(rest_s, rest_t, reduction="batchmean")
    return (against + 8.0 * among) * temperature**2


def pearson(x: Tensor, y: Tensor) -> Tensor:
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return F.cosine_similarity(x, y, dim=1).mean()


def dist(s: Tensor, t: Tensor) -> Tensor:
    p, q = F.softmax(s, dim=1), F.softmax(t, dim=1)
    return (1 - pearson(p, q)) + (1 - pearson(p.T, q.T))


def standardized_kd(s: Tensor, t: Tensor) -> Tensor:
    s, t = ((x - x.mean(1, keepdim=True)) / (1e-7 + x.std(1, keepdim=True)) for x in (s, t))
    return logit_kd(s, t, 2.0)


def jensen_shannon(s: Tensor, t: Tensor) -> Tensor:
    p, q = F.softmax(t, dim=1), F.softmax(s, dim=1)
    m = (p + q) / 2
    return ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)).mean() / 2


def one_for_all(s: Tensor, t: Tensor, target: Tensor) -> Tensor:
    own = F.one_hot(target, s.shape[1])
    return -(((F.softmax(t, dim=1) + own) ** 1.5 - own) * F.softmax(s, dim=1).log()).sum(1).mean()


def multilabel_kd(s: Tensor, t: Tensor) -> Tensor:
    p, q = t.sigmoid(), s.sigmoid()
    each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    return each.sum(1).mean()


def hint(s: Tensor, t: Tensor) -> Tensor:
    return ((s - t) ** 2).mean()


def attention_transfer(s: Tensor, t: Tensor) -> Tensor:
    q, p = (F.normalize(x.pow(2).mean(1).flatten(1)) for x in (s, t))
    return (q - p).pow(2).mean()


def neuron_selectivity(s: Tensor, t: Tensor) -> Tensor:
    s, t = (F.normalize(x.flatten(2), dim=2) for x in (s, t))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.transpose(1, 2)).pow(2).mean()

    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


def variational_information(s: Tensor, variance: Tensor, t: Tensor) -> Tensor:
    v = variance.view(1, -1, 1, 1)
    return 0.5 * ((s - t) ** 2 / v + torch.log(v)).mean()


def overhaul(s: Tensor, t: Tensor, margin: Tensor) -> Tensor:
    aim = torch.max(t, margin.view(1, -1, 1, 1))
    loss = F.mse_loss(s, aim, reduction="none")
    return (loss * ((s > aim) | (aim > 0)).float()).sum() / len(s)


def hierarchical_context(s: Tensor, t: Tensor) -> Tensor:
    total, weight, weights = F.mse_loss(s, t), 1.0, 1.0
    for side in (4, 2, 1):
        if side < s.shape[2]:
            weight /= 2
            weights += weight
            total = total + weight * F.mse_loss(
                F.adaptive_avg_pool2d(s, side), F.adaptive_avg_pool2d(t, side)
            )
    return total / weights


def rkd_distance(s: Tensor, t: Tensor) -> Tensor:
    d_s, d_t = (torch.cdist(x, x) for x in (s, t))
    return F.smooth_l1_loss(d_s / d_s[d_s > 0].mean(), d_t / d_t[d_t > 0].mean())


def rkd_angle(s: Tensor, t: Tensor) -> Tensor:
    sides = []
    for x in (s, t):
        e = F.normalize(x[None] - x[:, None], dim=2)
        sides.append(torch.bmm(e, e.transpose(1, 2)))
    return F.smooth_l1_loss(*sides)


def similarity_preserving(s: Tensor, t: Tensor) -> Tensor:
    g, h = (F.normalize(x @ x.T, dim=1) for x in (s, t))
    return ((g - h) ** 2).sum() / len(s) ** 2


def probabilistic_transfer(s: Tensor, t: Tensor) -> Tensor:
    sides = []
    for x in (s, t):
        x = x / x.norm(dim=1, keepdim=True)
        near = (x @ x.T + 1) / 2
        sides.append(near / near.sum(1, keepdim=True))
    q, p = sides
    return (p * torch.log((p + 1e-7) / (q + 1e-7))).mean()


def linear_cka(s: Tensor, t: Tensor) -> Tensor:
    """The unbiased estimator, from its definition."""

    def hsic(x: Tensor, y: Tensor) -> Tensor:
        n = len(x)
        k, m = (g - torch.diag(g.diagonal()) for g in (x @ x.T, y @ y.T))
        value = (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2))
        return value - 2 / (n - 2) * (k.sum(0) * m.sum(0)).sum()

    return hsic(s, t) / (hsic(s, s) * hsic(t, t)).sqrt()


def contrastive_alignment(s: Tensor, t: Tensor, ids: Tensor) -> Tensor:
    scores = F.normalize(s, dim=1) @ F.normalize(t, dim=1).T / 0.07
    own = torch.arange(len(s))
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def contrastive_representation(p: Tensor, n: Tensor, allowed: Tensor, ratio: float) -> Tensor:
    h, g = p.exp() / (p.exp() + ratio), n.exp() / (n.exp() + ratio)
    return -(h.log() + ((1 - g).log() * allowed).sum(1)).mean()


def masked_hint(s: Tensor, t: Tensor, weight: Tensor) -> Tensor:
    return (((s - t) ** 2) * weight).sum() / len(s) / weight.sum()
