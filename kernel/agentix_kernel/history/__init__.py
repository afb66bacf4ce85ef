"""What was recorded, for people who ask: read beside the kernel, by a process of its own that it starts at boot.

question.py says which records are meant, rows.py how they look; blocks.py reads pieces of the journal, index.py knows
where to look, search.py puts both together; answers.py are the questions; historian.py is the process, asking.py
agentd's side of it, offline.py answers where no kernel runs. The journal is the truth: the index says only which
parts of it need not be read.
"""
