"""Rendered blocks about policies: the keys of a document, the forms of a rule, resources and constraints."""

from blocks import block, items, sentence

from agentix_kernel.authority import constraints
from agentix_kernel.authority.policy import document
from agentix_kernel.authority.policy.kinds import Key, Keys
from agentix_kernel.authority.policy.rules import FORMS
from agentix_syscalls import capabilities


@block
def policy_keys() -> list[str]:
    """Keys at the top of a document."""
    return _keys(document.DOCUMENT.keys)


@block
def policy_limits() -> list[str]:
    return _keys(document.LIMITS.keys)


@block
def policy_budgets() -> list[str]:
    return _keys(document.BUDGETS.keys)


@block
def policy_binds() -> list[str]:
    return _keys(document.BIND.keys)


@block
def policy_loops() -> list[str]:
    return _keys(document.LOOPS.keys)


def _keys(keys: tuple[Key, ...]) -> list[str]:
    return items([(f"Ic {key.name}", sentence(key.doc) + ("\nIt must be there." if key.required else ""))
                  for key in keys if not (isinstance(key.kind, Keys) and not key.doc)])


@block
def policy_rules() -> list[str]:
    """How a rule is said in words."""
    rows: list[tuple[str, str]] = []
    for form in FORMS:
        more = f"\nWith\n.Ic {form.more.name} :\n{sentence(form.more.doc)}" if form.more is not None else ""
        action = "" if form.action else "\nWith\n.Ic action :\nwhat is done, or a list of that."
        rows.append((f"Ic {form.key}", sentence(form.doc) + action + more))
    return items(rows)


@block
def policy_resources() -> list[str]:
    """What a rule may be about, as a capability string names it."""
    return items([(f"Ic {row.name} : {' , '.join(row.action_names)}",
                   sentence(f"{row.doc}; its path is {row.path}") + _support(row.support))
                  for row in capabilities.RESOURCES])


def _support(support: str) -> str:
    word, _, why = support.partition(": ")
    if word == "full":
        return ""
    return "\nIn this version it is refused." if word == "planned" else "\n" + sentence(why)


@block
def policy_constraints() -> list[str]:
    return items([(f"Ic {row.name}", sentence(row.doc)) for row in constraints.CONSTRAINTS])
