"""Policies: one YAML document says what an agent starts with, what is denied whatever it holds, and what happens then.

reading: text to nodes with lines. kinds: what a value may be, read and published. rules: one rule. document: the whole.
compiled: decisions. inforce: one agent's. compare: two policies side by side. agents_md: the same from
`.agents/security.md`.
"""
