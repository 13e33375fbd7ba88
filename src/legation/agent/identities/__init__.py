"""Certificates and tokens of workloads and of the agent: made, proved, renewed, looked at."""
