"""`interlock doctor`: what is wrong or weak in an installation, and what to do about it.

facts       what was gathered, and where it comes from
machine     checks of this machine's home, settings, disk and files (pure)
gather      the only part that looks at anything

Checks of what the admin API knows are in `interlock.control.doctor`, which the console's page runs too.
"""
