"""Relevance of products to search queries: labels, prompts, engines, scoring and the model's life."""
