"""Protocols: how models are trained and judged."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """How a model is trained and judged. Figures of different protocols never share a column."""

    name: str = "fair"  # a key of PROTOCOLS
    split: str = "leave-one-out"  # or "temporal"
    removed: str = "history"  # what cannot be recommended: items of the whole "history", of the "window" that the model
    # sees, or "nothing"
    selection: str = "ndcg@10"  # the validation metric that picks the epoch
    windows: str = "drawn"  # how long sequences are cut for training: anew in every epoch, or as "lrurec" does;
    # not for models that are trained on prefixes
    max_len: int = 50  # most recent items that a model sees


# `fair` is ours. The others follow the code that published figures come from, so that they can be compared with:
# `lrurec` that of LRURec, `recbole` that of RecBole, which the papers of the other architectures use.
PROTOCOLS = {
    "fair": Protocol(),
    "lrurec": Protocol("lrurec", removed="window", selection="hr@10", windows="lrurec"),
    "recbole": Protocol("recbole", removed="nothing"),
}
