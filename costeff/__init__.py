"""COST-EFF: collaborative optimisation of spatial and temporal efficiency with slenderised multi-exit language models.

Shen et al., EMNLP 2022, arXiv 2210.15523.
"""
