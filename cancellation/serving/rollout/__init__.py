"""A policy file in; the policy in force out, with its kill switch and a ledger of changes.

Start with `policy_store.py`; `policy_sources.py` is where all that is kept, `policy_ledger.py` what was in force when,
`policy_view.py` shows it.
"""
