"""The one base of errors that a person can mend."""

from __future__ import annotations


class UserError(Exception):
    """Its text is one sentence that says what is wrong and what to do; no traceback is shown."""
