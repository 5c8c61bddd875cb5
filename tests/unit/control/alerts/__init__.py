"""Alerts, without a database."""
