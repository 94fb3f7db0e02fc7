"""Events and a language model in; verdicts with factors, reasoning, probability and cost out.

Start with `prompt.py` and `answer.py`: what a model is asked and how its answer is read while it is being written.
`backend.py` is the seam to whatever model answers; `judging.py` puts the three together.
"""
