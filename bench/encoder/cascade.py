"""Two complete encoders behind the interface of one: an exit of a cascade is a member (CascadeBERT)."""

from __future__ import annotations

from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from bench.encoder.model import Encoder, EncoderConfig, EncoderOutput
from bench.errors import UserError


class CascadeConfig(PretrainedConfig):
    """The configurations of the members, from the smallest to the largest; each member keeps its own."""

    model_type = "costeff-cascade"

    def __init__(self, members: list[dict[str, Any]] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.members = members or [EncoderConfig(num_labels=self.num_labels).to_dict()]


class Cascade(PreTrainedModel):
    """Complete models, nothing shared: what one member does not answer, the next reads anew."""

    config_class = CascadeConfig
    config: CascadeConfig
    base_model_prefix = "cascade"

    def __init__(self, config: CascadeConfig) -> None:
        super().__init__(config)
        if any(member.get("signal") for member in config.members):
            raise UserError("a cascade's members answer with logits alone; make them without a signal")
        self.members = nn.ModuleList(Encoder(EncoderConfig.from_dict(member)) for member in config.members)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The members have initialised themselves."""

    @classmethod
    def of(cls, *members: Encoder) -> Cascade:
        """A cascade of these models; their weights are copied."""
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
        return len(self.members)

    @property
    def exit_layers(self) -> list[int]:
        """Layers run before each member has answered, the earlier members' included."""
        return list(accumulate(len(member.config.heads) for member in self._encoders))

    def exit_macs(self, length: int) -> list[int]:
        """Multiply-adds until each member has answered: an escalated example pays for all members it has seen."""
        return list(accumulate(member.exit_macs(length)[-1] for member in self._encoders))

    def begin(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        state = {"input_ids": input_ids, "mask": attention_mask}
        return state if token_type_ids is None else state | {"token_type_ids": token_type_ids}

    def advance(self, state: dict[str, Tensor], exit_index: int) -> tuple[dict[str, Tensor], Tensor]:
        output = self.members[exit_index](state["input_ids"], state["mask"], state.get("token_type_ids"))
        return state, output.logits

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> EncoderOutput:
        """Every member's answer; `exit_logits` [members, B, C]."""
        logits = torch.stack([m(input_ids, attention_mask, token_type_ids).logits for m in self.members])
        return EncoderOutput(logits=logits[-1], exit_logits=logits)
