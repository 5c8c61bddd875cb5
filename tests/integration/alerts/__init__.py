"""Alerts over a real database, with a webhook receiver and a mail server of their own."""
