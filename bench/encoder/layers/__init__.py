"""The parts in which the layouts of encoders differ: embeddings, layers, and the inputs of attention.

Each layout is one module with the same names: `Embeddings`, `Layer`, `final_norm`, `attention_inputs` and
`NEURON_ROWS`. `bert` is post-norm with learned positions; `modernbert` is pre-norm with rotary positions.
"""
