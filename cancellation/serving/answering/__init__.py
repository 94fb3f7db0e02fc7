"""One event in; one verdict out, on record before it is sent (`gateway.py`), or a refusal (`admission.py`)."""
