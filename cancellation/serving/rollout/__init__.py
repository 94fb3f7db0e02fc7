"""A policy file in; the policy in force out, with its kill switch and a ledger of changes.

Start with `policy_store.py`; `policy_ledger.py` keeps what was in force when, `policy_view.py` shows it.
"""
