"""Misuse signals: what enforcement points saw of peers, held against what is known of them.

`correlator` is pure: it is fed sightings and statements, and returns findings. `signals` is the
service around it: it looks certificates up, keeps findings, and carries out the response.
docs/decisions/misuse-signals.md says what is taken for odd and why.
"""
