"""A text in; the same text out, with tokens such as `<PHONE>` in place of what leads to a person.

Start with `redaction.py`, which puts the others in order: `addresses.py` finds links, e-mail addresses and handles,
`spelt.py` numbers that are written in words, with letters for digits or in pieces, `numbers.py` judges runs of digits,
`identifiers.py` knows check digits and what can be dialled. `logged_event.py` does it to an event.
"""
