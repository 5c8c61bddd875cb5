"""What the control process can tell of what is wrong or weak in an installation, and what to do about it.

findings    what a check says
cluster     checks of what `interlock.control.diagnosis` gathers (pure)

`interlock doctor` adds checks of the machine that it runs on: `interlock.cli.doctor`.
"""
