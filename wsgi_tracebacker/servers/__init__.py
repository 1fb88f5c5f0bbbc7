"""Wraps an application without a change to its code: one module for each way in which a server finds applications.

A server itself is imported inside functions only, if at all.
"""
