"""Relevance of products to search queries: pairs in; labels, and the models that give them, out.

Start with `labels.py`, then `scoring/day.py`. The rooms from the ground up: `prompting/`, `pairs/`, `weights/`,
`engines/`, `training/`, `scoring/`, `evaluation/`, `annotation/`, `small_model_recipe/`, `finetuning/`,
`publishing/`.
"""
