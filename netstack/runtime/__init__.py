"""Drives an engine: live on the wall clock, or in replay on a virtual one."""
