"""What is enforced as it is written, and warned about: rules beside each other, and names that nothing has."""

import pytest

from agentix_kernel.authority.policy import document, warnings

HEAD = "version: 1\nname: example\nmode: enforce\n"
TOOLS = ("shell.execute",)


def _warned(text: str) -> list[str]:
    return [str(one) for one in warnings.warn(document.load((HEAD + text).encode(), "p.yaml"), TOOLS)]


@pytest.mark.parametrize(("text", "words"), [
    ("allow:\n  - {file: /, action: read}\n  - {file: /state, action: read}\n",
     "p.yaml:6:5: says nothing more than p.yaml:5:5 does"),
    ("allow:\n  - {file: /, action: read}\n  - {file: /mem/*, action: read, allowlist: [a]}\n",
     "p.yaml:6:5: says nothing more than p.yaml:5:5 does"),
    ("deny:\n  - {call: MKDIR, path: /state}\n  - {call: MKDIR}\n",
     "p.yaml:5:5: says nothing more than p.yaml:6:5 does"),
    ("allow:\n  - {file: /state, action: read}\ndeny:\n  - {file: /mem, action: read}\n",
     "p.yaml:7:5: denies what no rule allows"),
    ("allow:\n  - {file: /state, action: read}\ndeny:\n  - {file: /state, action: write}\n",
     "p.yaml:7:5: denies what no rule allows"),
    ("allow:\n  - {tool: shell.execute}\ndeny:\n  - {file: /, action: write}\n",
     "p.yaml:7:5: denies file:write altogether"),
    ("deny:\n  - {call: '*'}\n", "p.yaml:5:5: denies call:make altogether"),
    ("allow:\n  - {file: /policy, action: [read, write]}\n", "p.yaml:5:5: nobody writes below /policy"),
    ("allow:\n  - {tool: shell.exec}\n",
     "p.yaml:5:5: no tool of this version is called 'shell.exec'; did you mean 'shell.execute'?"),
    ("allow:\n  - {spawn: '9*', max: 1}\n", "no agent has such a name: they begin with a letter"),
])
def test_what_was_probably_not_meant_is_told_with_its_line(text, words):
    assert any(words in one for one in _warned(text)), _warned(text)


@pytest.mark.parametrize(("rule", "said"), [
    ("{tool: shell.execute, allowlist: [ls, cat]}", "its allowlist has names of tools, and 'shell.execute' is not"),
    ("{signal: SIGTERM, to: child, allowlist: [SIGHUP]}", "its allowlist has names of signals, and 'SIGTERM' is not"),
    ("{tool: shell.execute, allowlist: [ls, shell.execute]}", ""), ("{tool: 'shell.*', allowlist: [ls]}", ""),
    ("{file: /state, action: read, allowlist: [a]}", ""),
])
def test_an_allowlist_without_the_only_name(rule, said):
    found = "".join(_warned(f"allow:\n  - {rule}\n"))
    assert said in found if said else found == ""


SPAWNING = "allow:\n  - {file: /, action: [read, write]}\n  - {tool: 'sh*'}\n  - {spawn: 'kid-*', max: 3}\n"
HELD = """\
allow:
  - {file: /state, action: read}
  - {file: /mem, action: read}
deny:
  - {file: /state/k, action: read}
  - {call: RENAME}
"""


@pytest.mark.parametrize("text", [SPAWNING, HELD])
def test_ordinary_documents_are_not_warned_of(text):
    assert _warned(text) == []


@pytest.mark.parametrize("name", document.SHIPPED)
def test_shipped_ones_are_as_they_are_meant(name):
    assert warnings.warn(document.load_shipped(name), TOOLS) == []


def test_very_many_rules_are_not_held_against_each_other():
    rules = "".join(f"  - {{file: /state/{number}, action: read}}\n" for number in range(500))
    assert _warned("allow:\n  - {file: /, action: read}\n" + rules) == []
