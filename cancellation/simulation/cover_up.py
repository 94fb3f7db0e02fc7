"""What is written at a chat's end so that whoever reads it sees something else than what happened.

Floods of long messages, words put into the buyer's mouth, notes to a reviewer. Honest shops broadcast and repeat
what their buyers said too, if less often, so nothing of this tells a verdict: what it hides does.
"""

from __future__ import annotations

from cancellation.simulation.story import Story

_FILLING = ("greet", "thanks", "ready", "packed", "answer_product")
_MAX_CHARACTERS = 3_500  # the contract ends a message at 4,000


def cover_up(s: Story, *, guilty: bool, rate: float = 1.0) -> None:
    """Let a seller cover a chat's traces, or an honest one look as if; `rate` times as often as usual."""
    if not s.chat:
        return
    if s.chance(0.05 * rate):
        flood(s)
    if s.chance((0.05 if guilty else 0.03) * rate):
        quote_buyer(s)
    if s.chance((0.03 if guilty else 0.01) * rate):
        s.seller("instruction")


def flood(s: Story) -> None:
    """Send one long message or several: thanks, greetings and shop talk, repeated."""
    sentences = [s.one_of(*_FILLING) for _ in range(s.rng.randint(1, 3))]
    for _ in range(s.rng.choice((1, 1, 2, 4, 8))):
        s.seller_long(sentences, characters=int(min(s.rng.lognormvariate(6.3, 0.9), _MAX_CHARACTERS)))


def quote_buyer(s: Story) -> None:
    """Say as the seller what a buyer says who cancels for reasons of their own."""
    s.seller_quotes(s.one_of("want_out", "plain_out", "want_out_soft", "wrong_details", "cheaper", "accept_cancel"))
