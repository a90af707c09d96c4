"""Who may talk to whom: verdicts and the evidence for them.

`tracker` keeps the leases that DNS answers gave, `lan` says what kind of place an address is, `quic` what
is QUIC, and `firewall` puts them in order and answers with a `Verdict`. `lockdown` is the blocking state with its
network check, `captive` the allowance for captive portals; each brings the resolver stage that goes with it.
"""
