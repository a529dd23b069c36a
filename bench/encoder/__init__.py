"""The encoder family; importing this package registers it with transformers' Auto classes."""

from transformers import AutoConfig, AutoModelForSequenceClassification

from bench.encoder.cascade import Cascade, CascadeConfig
from bench.encoder.model import Encoder, EncoderConfig, EncoderOutput
from bench.encoder.shape import Shape, Width, ratio_width

AutoConfig.register(EncoderConfig.model_type, EncoderConfig)
AutoConfig.register(CascadeConfig.model_type, CascadeConfig)
AutoModelForSequenceClassification.register(EncoderConfig, Encoder)
AutoModelForSequenceClassification.register(CascadeConfig, Cascade)

__all__ = [
    "Cascade",
    "CascadeConfig",
    "Encoder",
    "EncoderConfig",
    "EncoderOutput",
    "Shape",
    "Width",
    "ratio_width",
]
