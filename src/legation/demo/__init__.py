"""The demonstration: the whole product on loopback, in a temporary directory.

`deployment` starts and stops real processes by the real command line; `apps` are two
services that know nothing of TLS; `callers` call them and watch what happens;
`scenario` tells the story and collects the figures.
"""
