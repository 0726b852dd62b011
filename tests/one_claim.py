"""A claim judged alone, as the tests of its rule want it."""

import pandas as pd

from vibe_pipeline.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap
from vibe_pipeline.evaluation.claims import ClaimVerdict, judge_claims
from vibe_pipeline.experiment.claims import Claim


def evaluate_claim(claim: Claim, scores: pd.DataFrame, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> ClaimVerdict:
    """Judge a single claim, as if the report had no other."""
    return judge_claims((claim,), scores, bootstrap)[0]
