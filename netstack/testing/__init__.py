"""The public test kit: a whole engine without a socket, a thread or a second of real time.

`world` is an engine in a virtual world of scripted sockets; `playbook` states a TCP exchange as input and expected
output, in packetdrill's words, with stimuli from `builders` and expectations from `checkers`; `app_endpoint` is a TCP
of its own to talk to. All of it is for tests of apps that embed the engine as much as for the engine's own.
"""
