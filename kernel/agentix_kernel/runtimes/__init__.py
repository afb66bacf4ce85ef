"""Named runtimes and profiles: which interpreter runs agents, and what they get that their spawn does not say."""
