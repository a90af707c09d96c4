"""Fetches http://HOST/ for each HOST given and says in a line what came of it."""

import sys
import urllib.error
import urllib.request

for host in sys.argv[1:]:
    try:
        with urllib.request.urlopen(f"http://{host}/", timeout=8) as reply:
            print(f"{host:15} {reply.status} {reply.read(80).decode().strip()}", flush=True)
    except urllib.error.URLError as problem:
        print(f"{host:15} {problem.reason}", flush=True)
