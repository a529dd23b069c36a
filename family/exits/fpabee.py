"""F-PABEE: the model of PABEE, with the similarity of successive distributions as exit policy."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from bench.context import Context
from bench.encoder import Encoder
from bench.errors import UserError
from bench.exit_policies.policies import Agreement, Policy, Similarity
from bench.method import Method, Needed, Options, Stage


class FPabeeOptions(Options):
    """Options of F-PABEE."""

    pabee: str = Field("pabee", description="The contestant whose model is used.")
    patience: int = Field(1, ge=1, le=1000, description="Successive pairs of exits that have to agree.")


class RepeatedSimilarity(Similarity):
    """`Similarity` at several successive exits, under a name of its own since tables do not contain their number."""

    name = "repeated-similarity"


class RepeatedAgreement(Agreement):
    """`Agreement` at several successive exits, for regression."""

    name = "repeated-agreement"


class FPabee(Method):
    """F-PABEE (Gao et al., 2023, arXiv 2305.11916): PABEE with a similarity score instead of equal predictions.

    Section 3: an example exits when the similarity score of the distributions of two successive exits is below a
    threshold at `patience` successive exits. The training is PABEE's, so its model is used as it is and nothing is
    trained. The threshold is swept, while the patience is fixed. The score is that of the authors' code, the entropy of
    the mean of both distributions (`Similarity`), which the paper calls a Jensen-Shannon divergence.

    Own choices: of the scores in the paper, this one; on regression, which has no distributions, the difference of
    successive predictions. The authors' code applies each classifier to the output of the next layer; here, as in the
    paper, it has the output of its own.
    """

    Options = FPabeeOptions
    version = 2
    policy = "similarity"

    def starts_from(self, variant: str) -> Needed:
        """Return PABEE's model."""
        return Needed(self.options.pabee, "full")

    def check(self) -> None:
        """Raise UserError for a patience with which no example can exit before the last layer."""
        most = self.backbone.layers - 2
        if self.options.patience > most:
            raise UserError(
                f"contestants.{self.name}.options.patience: {self.options.patience} pairs of exits cannot agree "
                f"before the last of {self.backbone.layers} layers; use {most} at most"
                if most > 0
                else f"contestants.{self.name}: no example can exit before the last of {self.backbone.layers} layers"
            )

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        patience = self.options.patience
        usual = self.name if self.name == f"fpabee-{patience}" else "fpabee"
        return self.titled(f"F-PABEE (patience {patience})", usual)

    def exit_policy(self) -> Policy:
        """Return the exit policy."""
        run = self.options.patience
        if run == 1:  # the suite's own policies, which tables can replay by their names
            return Agreement() if self.task.regression else Similarity()
        return RepeatedAgreement(run=run) if self.task.regression else RepeatedSimilarity(run=run)

    def train(self, context: Context, variant: str) -> Encoder:
        """Return PABEE's model."""
        return context.model(self.options.pabee, "full")

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return no training."""
        return [Stage.untrained(self.backbone, examples)]
