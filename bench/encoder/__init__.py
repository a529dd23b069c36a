"""The suite's encoders; importing this package registers them with transformers' Auto classes."""

from transformers import AutoConfig, AutoModelForSequenceClassification

from bench.encoder.cascade import Cascade, CascadeConfig
from bench.encoder.early.classifier import EarlyExitClassifier, EarlyExitConfig
from bench.encoder.model import Encoder, EncoderConfig, EncoderOutput
from bench.encoder.shape import Shape, Width, ratio_width

AutoConfig.register(EncoderConfig.model_type, EncoderConfig)
AutoConfig.register(CascadeConfig.model_type, CascadeConfig)
AutoConfig.register(EarlyExitConfig.model_type, EarlyExitConfig)
AutoModelForSequenceClassification.register(EncoderConfig, Encoder)
AutoModelForSequenceClassification.register(CascadeConfig, Cascade)
AutoModelForSequenceClassification.register(EarlyExitConfig, EarlyExitClassifier)

__all__ = [
    "Cascade",
    "CascadeConfig",
    "EarlyExitClassifier",
    "EarlyExitConfig",
    "Encoder",
    "EncoderConfig",
    "EncoderOutput",
    "Shape",
    "Width",
    "ratio_width",
]
