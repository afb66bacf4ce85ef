"""What holds for every test of the project."""

import signal

from hypothesis import settings

# A shell starts what it puts into the background with these two ignored, and all that a test starts would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# The same examples in every run: a red test is red for everybody. No deadline: how fast this machine is today is not
# the property under test (the guest of `make vmtest` is emulated). To explore: --hypothesis-profile=default.
settings.register_profile("agentix", deadline=None, derandomize=True)
settings.load_profile("agentix")
