"""What honest and other stories share: openings, chat about nothing, asides, parcels begun."""

from __future__ import annotations

from cancellation.simulation.story import HOUR, Story


def opening(s: Story) -> None:
    """Let the buyer open a chat."""
    s.wait(0.02, 12)
    s.buyer(*(["greet"] if s.chance(0.3) else []), s.one_of("ask_ready", "ask_when", "ask_when", "greet"))


def chat_about_nothing(s: Story) -> None:
    """One round of questions and answers that means nothing for the verdict."""
    kind = int(s.rng.random() * 11)
    if kind >= 9:
        aside(s)
    elif kind >= 6:
        s.buyer(*(["greet"] if s.chance(0.2) else []), "ask_product")
        s.seller(s.one_of("answer_product", "answer_product", "answer_product", "answer_no"))
        if s.chance(0.5):
            s.buyer(s.one_of("thanks", "ask_product", "accept"))
    elif kind == 0:
        s.buyer("ask_ready")
        s.seller(s.one_of("ready", "packed"))
        s.buyer("thanks")
    elif kind == 1:
        s.buyer(s.one_of("ask_when", "greet"))
        s.seller(s.one_of("ready", "packed", "late_honest"))
    elif kind == 2:
        s.buyer("ask_variant")
        s.seller(s.one_of("variant_out", "ask_which"))
        s.buyer("accept")
    elif kind == 3:
        s.buyer("haggle")
        s.seller("refuse_discount")
        s.buyer("accept")
    elif kind == 4:
        s.seller("greet")
        s.buyer(s.one_of("ask_when", "thanks"))
    else:
        s.buyer(s.one_of("offer_outside", "quote_shop"))
        s.seller(s.one_of("refuse_outside", "ready"))
    if s.chance(0.12):
        s.system(s.one_of("safety", "auto_cancel"))


def aside(s: Story) -> None:
    """What has nothing to do with the cancellation: a courier's message passed on, another order, a thumb."""
    kind = int(s.rng.random() * 4)
    if kind == 0:
        s.buyer("courier")
        if s.chance(0.6):
            s.seller(s.one_of("short", "late_honest", "ready", "packed"))
    elif kind == 1:
        s.buyer("other_order")
        s.seller(s.one_of("ready", "packed", "other_order_request", "short"))
    elif kind == 2:
        s.buyer("worry")
        s.seller(s.one_of("no_need_cancel", "ready", "packed"))
    else:
        s.buyer("short")
        if s.chance(0.5):
            s.seller(s.one_of("short", "greet"))


def warm_up(s: Story) -> None:
    """Let both sides talk before anything happens, a little or a lot, as often in one cause as in another."""
    rounds = min(1 + int(s.rng.expovariate(1 / 4.0)), 16)
    for _ in range(rounds):
        s.wait(0.005, 1.5)
        chat_about_nothing(s)


def wind_down(s: Story) -> None:
    """Let the chat end with a politeness more often than with what mattered."""
    for side in s.rng.choice((("seller",), ("buyer",), ("buyer", "seller"), ("seller", "buyer"))):
        if side == "seller":
            s.seller(s.one_of("thanks", "greet", "thanks"))
        else:
            s.buyer(s.one_of("thanks", "accept"))


def prepare_parcel(s: Story) -> None:
    """Let an honest seller pack, and sometimes ship, what was ordered."""
    begin_parcel(s)
    if s.chance(0.2):
        s.wait(1, 12)
        s.entry(s.one_of("shipping_update", "pickup_failed", "handed_to_carrier"))


def begin_parcel(s: Story) -> None:
    """Let any seller begin with a parcel: to pack one or print a label proves nothing."""
    if s.chance(0.4):
        s.wait(0.2, 12)
    s.entry("packed")
    if s.chance(0.4):
        s.wait(0.1, 5)
        s.entry(s.one_of("label_created", "label_created", "shipping_update"))


def bring_up_to_date(s: Story) -> None:
    """Add the factors that times alone support at this point of a seller's story."""
    if not any(entry.kind in ("packed", "label_created", "handed_to_carrier") for entry in s.fulfilment):
        late = s.now > s.placed_at + 48 * HOUR
        if late and s.chance(0.7):
            s.factors.add("fulfilment.no_shipping_update")
    if s.now > s.deadline_at and not any(entry.kind == "deadline_missed" for entry in s.fulfilment):
        s.factors.add("fulfilment.deadline_missed")
