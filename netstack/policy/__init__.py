"""Who may talk to whom: verdicts and the evidence for them.

`tracker` keeps the leases that DNS answers gave, `lan` says what kind of place an address is, `quic` what
is QUIC, and `firewall` puts them in order and answers with a `Verdict`.
"""
