"""Parts of records that gate and report read alike."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class RecordPart(BaseModel):
    """Strict in what is read, blind to what is not: a number that is text or not finite is an error."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class PerplexityPart(RecordPart):
    """exp(mean negative log-likelihood)."""

    value: Positive
    std_error: NotNegative
    n_tokens: Count
    n_windows: Count


class PredictionPart(RecordPart):
    """What the build promised."""

    decode_tok_s: Positive
    depth_tokens: Count
    measured_tok_s: Positive | None
