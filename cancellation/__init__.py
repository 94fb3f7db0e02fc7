"""Verdicts on cancelled orders: a cancellation event in; whether the seller induced it, why, and what follows, out.

Start with `events/event.py`. The rooms from the ground up: `events/`, `features/`, `text/`, `model/`; `simulation/`
and `written/` make events to learn from; `decision/`, `training/`, `scoring/`, `comparison/`; `new_market.py` takes a
market in, `serving/` is the endpoint.
"""
