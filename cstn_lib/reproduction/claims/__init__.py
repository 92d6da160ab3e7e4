# ruff: noqa: F401
"""Every claim of the paper that trained networks can judge, each with the rule that judges it.

A claim is one sentence, its place in the paper, the trainings that it needs, the condition under
which it is judged, and a rule in words above the code that applies it. Rules ask intervals, never a
bare difference: 95 % over the test images and, where there are several, the seeds
(`cstn_lib.evaluation.metrics.mean_interval`). Where an interval leaves a sign open, a claim of that
sign is undecided.

Everything is computed from finished runs' predictions tables (`cstn_lib.evaluation.predictions`).
The paper's numbers are in `cstn_lib.reproduction.paper`.
"""

# both enter their claims in `CLAIMS`, in the order of the paper
from cstn_lib.reproduction.claims import ablations, comparisons
from cstn_lib.reproduction.claims.claim import (
    CLAIMS,
    DATASETS,
    HOLDS,
    HOLDS_IN_PART,
    HOLDS_NOT,
    NOT_TESTED,
    UNDECIDED,
    VERDICTS,
    Claim,
    Finding,
    Measured,
    Verdict,
)
from cstn_lib.reproduction.claims.judging import (
    claim_experiments,
    claims_table,
    judge,
    measured_table,
)
