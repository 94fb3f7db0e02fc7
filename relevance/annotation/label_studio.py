"""Label Studio's files: the labelling interface, the tasks to import, and the export to read back.

Formats: https://labelstud.io/guide/task_format and https://labelstud.io/tags; checked against a running server
by tests/slow/test_label_studio.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from relevance.labels import LABELS
from relevance.pairs.texts import value_text
from relevance.prompting.guidelines import Guidelines
from relevance.prompting.guidelines_page import guidelines_fragment

CHOICE, COMMENT = "label", "comment"
"""Names of the two controls; results in an export are found by them."""

_COMMENT_HINT = "What made you hesitate? (optional)"
_STYLE = """
    .rules h3 { font-size: 15px; font-weight: 600; margin: 18px 0 6px; }
    .rules ol { list-style: decimal; padding-left: 22px; }
    .rules ul { list-style: disc; padding-left: 22px; }
    .rules li { margin-bottom: 6px; }
    .rules td, .rules th { padding: 5px 14px 5px 0; text-align: left; vertical-align: top; }
  """
"""Label Studio takes away what a browser gives to headings, lists and tables."""
_COLORS = {"exact": "#2a6fdb", "substitute": "#12946a", "complement": "#d98e04", "irrelevant": "#8b929b"}


def labelling_config(guidelines: Guidelines) -> bytes:
    """Write the interface: query, product, four choices with hotkeys, a comment, the guidelines folded below.

    The query and the listing are text tags, never HyperText: what a seller wrote must not become markup.
    """
    choices = "\n".join(
        f"      <Choice value={quoteattr(label)} hotkey={quoteattr(str(number))} "
        f"hint={quoteattr(guidelines.definitions[label])} background={quoteattr(_COLORS[label])}/>"
        for number, label in enumerate(LABELS, start=1)
    )
    rules = quoteattr(guidelines_fragment(guidelines))
    return f"""<View>
  <Style>{_STYLE}</Style>
  <View style="max-width: 900px">
    <Header value="Query" size="5"/>
    <Text name="query" value="$query" selectionEnabled="false"/>
    <Header value="Product" size="5"/>
    <Text name="title" value="$title" selectionEnabled="false"/>
    <Text name="details" value="$details" selectionEnabled="false"/>
    <Choices name="{CHOICE}" toName="query" choice="single" required="true" showInline="true">
{choices}
    </Choices>
    <TextArea name="{COMMENT}" toName="query" rows="1" maxSubmissions="1" placeholder="{_COMMENT_HINT}"/>
  </View>
  <Collapse accordion="false">
    <Panel value={quoteattr(f"Guidelines {guidelines.version}")}>
      <View className="rules">
        <HyperText name="guidelines" inline="true" selectionEnabled="false" value={rules}/>
      </View>
    </Panel>
  </Collapse>
</View>
""".encode()


def import_tasks(tasks: Sequence[Mapping[str, str]]) -> bytes:
    """Write tasks, given as flat texts, in the format that a project imports."""
    return json.dumps([{"data": dict(task)} for task in tasks], ensure_ascii=False, indent=1).encode()


def read_export(content: bytes, *, name: str) -> list[dict[str, Any]]:
    """Read a project's JSON export.

    Args:
        content: The export in the format that Label Studio calls JSON (not JSON-MIN or CSV).
        name: The file's, for errors.

    Returns:
        A row per annotation: the task's data as texts (in a CSV, Label Studio reads ids as numbers), `label`,
        `comment`, `user` (e-mail where the export has it, else the
        number) and `annotated_at`. Skipped tasks and annotations without a label are left out.

    Raises:
        ValueError: If it is no such export.
    """
    try:
        tasks = json.loads(content)
        rows = [_row(task, annotation) for task in tasks for annotation in task["annotations"]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{name}: not a Label Studio export ({type(error).__name__}): export the project as JSON, not JSON-MIN"
        ) from None
    return [row for row in rows if row["label"] is not None]


def _row(task: Mapping[str, Any], annotation: Mapping[str, Any]) -> dict[str, Any]:
    results = [result for result in annotation["result"] if "from_name" in result]  # a relation between two has none
    chosen = {result["from_name"]: result.get("value") or {} for result in results}
    labels = [] if annotation.get("was_cancelled") else chosen.get(CHOICE, {}).get("choices", [])
    user = annotation.get("completed_by")
    return {
        **{name: value_text(value) or "" for name, value in task["data"].items()},
        "label": labels[0] if labels else None,
        "comment": " ".join(chosen.get(COMMENT, {}).get("text", [])),
        "user": str(user.get("email") or user.get("id")) if isinstance(user, Mapping) else str(user),
        "annotated_at": annotation.get("updated_at") or annotation.get("created_at") or "",
    }
