"""The flight recorder: one durable, verifiable journal of everything that happened.

format.py is the file format, journal.py appends, disk.py and key.py are its ground, recover.py opens what a crash
left, read.py and follow.py read, verify.py judges. packed.py is a closed segment compressed, retention.py says what is
dropped and how that is told, anchor.py keeps the head of the chain outside.
"""
