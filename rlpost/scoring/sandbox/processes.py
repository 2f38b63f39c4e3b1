"""The processes of this one's jails, for whoever asks which children it has.

A module of its own, so that asking imports nothing else.
"""

from __future__ import annotations

JAILS: set[int] = set()
"""Ids of direct children that are the outer processes of jails, until they have been waited for."""
