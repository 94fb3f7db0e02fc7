"""The labelling interface in Label Studio, and its export as rows.

Tags: https://labelstud.io/tags; checked against a running server by tests/slow/test_label_studio.py.
"""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import quoteattr

from cluster.annotation import label_studio
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


def read_export(content: bytes, *, name: str) -> list[dict[str, Any]]:
    """Read a project's JSON export.

    Args:
        content: The export in the format that Label Studio calls JSON.
        name: The file's, for errors.

    Returns:
        A row per annotation: the task's data as texts (in a CSV, Label Studio reads ids as numbers), `label`,
        `comment`, `user` and `annotated_at`. Skipped tasks and annotations without a label are left out.

    Raises:
        ValueError: If it is no such export.
    """
    return [
        {
            **{name: value_text(value) or "" for name, value in one.data.items()},
            "label": one.first(CHOICE),
            "comment": " ".join(one.chosen.get(COMMENT, ())),
            "user": one.user,
            "annotated_at": one.annotated_at,
        }
        for one in label_studio.read_export(content, name=name)
        if one.first(CHOICE) is not None
    ]
