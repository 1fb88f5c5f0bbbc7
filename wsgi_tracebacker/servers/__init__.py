"""Adoption without a change to the application's code: one module for each way a server finds an application.

Knows how gunicorn, PasteDeploy and whoever takes ``module:name`` are configured. Refuses to know what a worker does
with what it serves. A server itself is imported inside functions only, if at all.
"""
