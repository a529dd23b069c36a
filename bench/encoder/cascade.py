"""A cascade of complete encoders with the interface of one encoder: each member is an exit (CascadeBERT)."""

from __future__ import annotations

from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from bench.encoder.model import Encoder, EncoderConfig, EncoderOutput
from bench.encoder.saved import SavedModel
from bench.errors import UserError
from bench.names import LOADED_FROM


class CascadeConfig(PretrainedConfig):
    """Configuration of a `Cascade`.

    Args:
        members: Configurations of the members, from the smallest to the largest.
        **kwargs: Arguments of `PretrainedConfig`.
    """

    model_type = "costeff-cascade"

    def __init__(self, members: list[dict[str, Any]] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        given = members or [EncoderConfig(num_labels=self.num_labels).to_dict()]
        self.members = [{key: value for key, value in each.items() if key != LOADED_FROM} for each in given]


class Cascade(SavedModel):
    """Encoders that share nothing: an example that does not exit at one member is computed again by the next.

    Raises:
        UserError: A member has signals.
    """

    config_class = CascadeConfig
    config: CascadeConfig
    base_model_prefix = "cascade"

    def __init__(self, config: CascadeConfig) -> None:
        super().__init__(config)
        if any(member.get("signal") for member in config.members):
            raise UserError("a cascade has no signals; make its members without a signal")
        self.members = nn.ModuleList(Encoder(EncoderConfig.from_dict(member)) for member in config.members)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: the members have initialised themselves."""

    @classmethod
    def of(cls, *members: Encoder) -> Cascade:
        """Return a cascade of these models with a copy of their weights."""
        configs = [member.config.to_dict() for member in members]
        cascade = cls(CascadeConfig(members=configs, num_labels=members[0].config.num_labels))
        for own, given in zip(cascade.members, members, strict=True):
            own.load_state_dict(given.state_dict())
        return cascade

    @property
    def _encoders(self) -> list[Encoder]:
        return cast(list[Encoder], list(self.members))

    @property
    def exit_count(self) -> int:
        """Number of members."""
        return len(self.members)

    @property
    def exit_layers(self) -> list[int]:
        """Number of layers up to the end of each member, those of earlier members included."""
        return list(accumulate(len(member.config.heads) for member in self._encoders))

    def exit_macs(self, length: int) -> list[int]:
        """Return the multiply-adds up to the end of each member, those of earlier members included."""
        return list(accumulate(member.exit_macs(length)[-1] for member in self._encoders))

    def begin(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the state that `advance` reads: the inputs."""
        state = {"input_ids": input_ids, "mask": attention_mask}
        return state if token_type_ids is None else state | {"token_type_ids": token_type_ids}

    def advance(self, state: dict[str, Tensor], exit_index: int) -> tuple[dict[str, Tensor], Tensor]:
        """Run member `exit_index` (0-based); return the unchanged state and the member's logits [B, C]."""
        output = self.members[exit_index](state["input_ids"], state["mask"], state.get("token_type_ids"))
        return state, output.logits

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> EncoderOutput:
        """Compute every member for a batch [B, n]; `exit_logits` is [members, B, C]."""
        logits = torch.stack([m(input_ids, attention_mask, token_type_ids).logits for m in self.members])
        return EncoderOutput(logits=logits[-1], exit_logits=logits)
