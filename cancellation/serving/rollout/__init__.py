"""A policy file in; the policy in force out, with its kill switch (`policy_store.py`) and its ledger."""
