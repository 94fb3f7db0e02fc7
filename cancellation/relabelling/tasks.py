"""A case as people see it: its lines, the question in three parts, the procedure folded below.

Texts of buyers and sellers are shown as text, never as markup, and without contact data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import quoteattr

from pydantic import Field, model_validator

from cancellation.contact_data.logged_event import redact_event
from cancellation.events.event import Event, event_mapping, parse_event
from cancellation.events.factors import VERDICTS
from cancellation.llm.prompt import PromptSettings, case_text
from cancellation.relabelling.cases import Case
from cancellation.relabelling.procedure import MAX_FACTORS, Procedure
from cluster.annotation.assignment import Names, assign_people, require_enough
from cluster.annotation.label_studio import import_tasks
from cluster.settings import Settings

CATEGORY, FACTORS_CHOSEN, REASONING = "category", "factors", "reasoning"
"""Names of the three controls; results in an export are found by them."""

_COLORS = {"induced": "#b23a06", "not_induced": "#12946a", "inconclusive": "#8b929b"}
_MOST_CHARACTERS = 20_000
_STYLE = """
    .rules h3 { font-size: 15px; font-weight: 600; margin: 18px 0 6px; }
    .rules ol { list-style: decimal; padding-left: 22px; }
    .rules td { padding: 4px 14px 4px 0; text-align: left; vertical-align: top; }
  """
"""Label Studio takes away what a browser gives to headings, lists and tables."""


class TaskSettings(Settings):
    """Who is asked, and what they see."""

    annotators: Names = ("ann", "bob")
    """Names as they shall stand in files and in the history of a label."""

    annotators_per_case: int = Field(default=1, ge=1)
    """Different people for each case. With 1, one person's second look stands against the first label."""

    blind: bool = True
    """Show neither the label that a case has nor what judges say of it: what people see, they agree with."""

    seed: int = Field(default=0, ge=0)
    """The same seed gives the same cases to the same people."""

    @model_validator(mode="after")
    def _enough_people(self) -> TaskSettings:
        require_enough(self.annotators, self.annotators_per_case, what="case")
        return self


def task_files(
    cases: Sequence[Case], procedure: Procedure, settings: TaskSettings, *, round_name: str
) -> dict[str, bytes]:
    """Write the interface and each person's tasks, by file name.

    Cases come in the order in which they are given, so that those who stop early have done what matters most.
    """
    people = assign_people(len(cases), settings.annotators, settings.annotators_per_case, seed=settings.seed)
    given: dict[str, list[dict[str, str]]] = {name: [] for name in settings.annotators}
    for case, names in zip(cases, people, strict=True):
        for name in names:
            given[name].append(_task(case, procedure, settings, round_name=round_name, annotator=name))
    return {
        "procedure.html": procedure.page(),
        "label_studio/config.xml": labelling_config(procedure, blind=settings.blind),
        **{f"label_studio/{name}.json": import_tasks(tasks) for name, tasks in given.items()},
    }


def labelling_config(procedure: Procedure, *, blind: bool) -> bytes:
    """Write the interface. Tags: https://labelstud.io/tags."""
    categories = "\n".join(
        f"      <Choice value={quoteattr(name)} hotkey={quoteattr(str(number))} "
        f"hint={quoteattr(procedure.categories[name])} background={quoteattr(_COLORS[name])}/>"
        for number, name in enumerate(VERDICTS, 1)
    )
    factors = "\n".join(
        f"      <Choice value={quoteattr(code)} hint={quoteattr(meaning)}/>"
        for code, meaning in procedure.factors.items()
    )
    opinion = "" if blind else '\n    <Text name="opinion" value="$opinion" selectionEnabled="false"/>'
    return f"""<View>
  <Style>{_STYLE}</Style>
  <View style="max-width: 960px">
    <Text name="case" value="$case" selectionEnabled="false"/>{opinion}
    <Choices name="{CATEGORY}" toName="case" choice="single" required="true" showInline="true">
{categories}
    </Choices>
    <Header value="Up to {MAX_FACTORS} decision factors" size="5"/>
    <Choices name="{FACTORS_CHOSEN}" toName="case" choice="multiple" showInline="true">
{factors}
    </Choices>
    <TextArea name="{REASONING}" toName="case" rows="2" maxSubmissions="1" required="true" placeholder="Why?"/>
  </View>
  <Collapse accordion="false">
    <Panel value={quoteattr(f"Procedure {procedure.version}")}>
      <View className="rules">
        <HyperText name="procedure" inline="true" selectionEnabled="false" value={quoteattr(procedure.fragment())}/>
      </View>
    </Panel>
  </Collapse>
</View>
""".encode()


def _task(
    case: Case, procedure: Procedure, settings: TaskSettings, *, round_name: str, annotator: str
) -> dict[str, str]:
    task = {
        "event_id": case.event.event_id,
        "market": case.event.market,
        "case": evidence(case.event),
        "round": round_name,
        "procedure": procedure.version,
        "procedure_digest": procedure.digest,
        "annotator": annotator,
    }
    return task if settings.blind else {**task, "opinion": _opinion(case)}


def evidence(event: Event) -> str:
    """Write a case as lines, as a language model reads it too, contact data taken out."""
    shown = parse_event(redact_event(event_mapping(event), "redacted"))
    return case_text(shown, PromptSettings(max_case_characters=_MOST_CHARACTERS))


def _opinion(case: Case) -> str:
    said = [f"{name}: {_likeliest(opinion)}" for name, opinion in case.opinions.items()]
    return "; ".join([*([f"label so far: {case.label}"] if case.label else []), *said])


def _likeliest(opinion: Sequence[float]) -> str:
    chances: Mapping[str, float] = dict(zip(VERDICTS, opinion, strict=True))
    name = max(chances, key=lambda verdict: chances[verdict])
    return f"{name} ({chances[name]:.0%})"
