"""Token ids and features in; scores out.

Start with `fusion.py`, the network in torch. `exporting.py` writes it as ONNX, `verdict_model.py` scores with that.
"""
