"""`interlock doctor`: what is wrong or weak in an installation, and what to do about it.

facts       what was gathered, and where it comes from
findings    what a check says
cluster     checks of what the admin API knows (pure)
machine     checks of this machine's home, settings, disk and files (pure)
gather      the only part that looks at anything
"""
