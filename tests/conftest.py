"""What holds for every test of the project."""

from hypothesis import settings

# The same examples in every run: a red test is red for everybody. No deadline: how fast this machine is today is not
# the property under test (the guest of `make vmtest` is emulated). To explore: --hypothesis-profile=default.
settings.register_profile("agentix", deadline=None, derandomize=True)
settings.load_profile("agentix")
