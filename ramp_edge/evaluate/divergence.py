"""KL divergence to a reference, nats per token: sum over the vocabulary of p_ref (log p_ref - log p)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ramp_edge.evaluate.perplexity import Float64, mean_and_std_error
from ramp_edge.records import Divergence

Flags = npt.NDArray[np.bool_]


def summarize_divergence(kl: Float64, same_top: Flags) -> Divergence:
    """Mean, standard error, median, 99th percentile and top-token agreement over scored positions [n_scored]."""
    mean, std_error = mean_and_std_error(kl)
    return Divergence(
        mean_kl=mean,
        std_error=std_error,
        median_kl=float(np.median(kl)),
        p99_kl=float(np.quantile(kl, 0.99)),
        top_token_agreement=float(same_top.mean()),
        n_tokens=len(kl),
    )
