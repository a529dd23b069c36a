"""What differs between the layouts of encoders: embeddings, layers, and what their attention reads.

Each layout is one module with the same names: `Embeddings`, `Layer`, `final_norm`, `attention_inputs` and
`NEURON_ROWS`. `bert` is post-norm with learned positions; `modernbert` is pre-norm with rotary positions.
"""
